"""Lazy names: import a name of a package when it is first used.

A program that imports flowstream pays only for what it uses. The server, for example, takes longer
to import than all of Trio, and is imported only by programs that serve. The package also imports
these names under ``TYPE_CHECKING``, so that type checkers and editors see them.

A public name's `__module__` is the package that programs import it from. Tracebacks, a repr and
tools that make documentation show that package. But then the annotations of a class are looked up
in that package, too. So when a name is used, all lazy names whose modules are loaded by then are
set as well; those in its annotations are among them.

A lazy name must not be the name of a submodule, because importing the submodule would replace it.

A name that has moved raises an error that says what to write instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def name_publicly(package: str, namespace: Mapping[str, Any], names: Iterable[str]) -> None:
    """Set `__module__` to `package` for each of `names` that a module below `package` defines."""
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
        places: for each name, the module that has it.
        submodules: the submodules that are imported when they are first used.
        moved: for each name that has moved, what to write instead.
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
        for other, place in places.items():  # from now on, Python finds them without this function
            module = sys.modules.get(place)
            if module is not None and other in vars(module):
                namespace[other] = vars(module)[other]
        name_publicly(package, namespace, places)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *places, *submodules})

    return __getattr__, __dir__
