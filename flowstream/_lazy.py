"""Names of a package that are imported when they are first asked for.

A program that imports flowstream pays for what it uses: a server, which takes longer to import
than all of Trio, is imported by who serves. The package imports these names under
``TYPE_CHECKING`` too, so that type checkers and editors see them.

A name must not be that of a submodule: importing the submodule would put it in the name's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for the module `package`.

    Args:
        package: the module's ``__name__``.
        places: the module that has each name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(places[name]), name)
        setattr(sys.modules[package], name, value)  # from now on found without this function
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *places})

    return __getattr__, __dir__
