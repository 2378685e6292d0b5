"""Names of a package that are imported when they are first asked for.

A program that imports flowstream pays for what it uses: a server, which takes longer to import
than all of Trio, is imported by who serves. The package imports these names under
``TYPE_CHECKING`` too, so that type checkers and editors see them.

What is public says where: `__module__` of a public name is the package that it is imported from,
in tracebacks, in a repr, and to tools that make documentation. Annotations of a class are then
looked up in that package. So what is asked for brings in all lazy names whose modules are loaded
by then, which those in its annotations are.

A name must not be that of a submodule: importing the submodule would put it in the name's place.

A name that has moved is no longer there, and the error says what to write instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def name_publicly(package: str, namespace: Mapping[str, Any], names: Iterable[str]) -> None:
    """Have each of `names` in `namespace` that a module below `package` defines say `package`."""
    for name in names:
        value = namespace.get(name)
        if getattr(value, "__module__", "").startswith(f"{package}."):
            value.__module__ = package


def lazy_names(
    package: str,
    places: Mapping[str, str],
    submodules: Collection[str] = (),
    moved: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for the module `package`.

    Args:
        package: the module's ``__name__``.
        places: the module that has each name.
        submodules: those that are there without being imported by name.
        moved: for each name that was here once, what to write instead.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name in submodules:
            return import_module(f"{package}.{name}")
        if name in moved:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}: write `{moved[name]}`", name=name
            )
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(places[name]), name)
        namespace = vars(sys.modules[package])
        for other, place in places.items():  # from now on found without this function
            module = sys.modules.get(place)
            if module is not None and other in vars(module):
                namespace[other] = vars(module)[other]
        name_publicly(package, namespace, places)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *places, *submodules})

    return __getattr__, __dir__
