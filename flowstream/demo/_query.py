"""Read and check query parameters of the demo. An error says what was expected."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

Arguments = Mapping[str, str]


class BadParameterError(ValueError):
    """A query parameter of a request is not what was expected; the view answers 400."""

    def __init__(self, name: str, got: str, expected: str) -> None:
        super().__init__(f"{name} must be {expected}, not {got[:80]!r}")
        self.name = name
        self.expected = expected


def choice(arguments: Arguments, name: str, default: str, among: Collection[str]) -> str:
    """Return the parameter, which must be one of `among`."""
    got = arguments.get(name, default)
    if got not in among:
        raise BadParameterError(name, got, f"one of {', '.join(among)}")
    return got


def known(arguments: Arguments, names: Collection[str]) -> None:
    """Raise if a parameter is not in `names`, so that a misspelt one is not ignored."""
    for name in arguments:
        if name not in names:
            raise BadParameterError("a parameter", name, f"one of {', '.join(names)}")


def number(
    arguments: Arguments, name: str, default: float, *, low: float, high: float, unit: str
) -> float:
    """Return the parameter, which must be a number from `low` to `high`."""
    got = arguments.get(name)
    if got is None:
        return default
    try:
        value = float(got)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # also refuses NaN
        raise BadParameterError(name, got, f"a number of {unit} from {low:g} to {high:g}")
    return value


def whole(arguments: Arguments, name: str, default: int, *, low: int, high: int, unit: str) -> int:
    """Return the parameter, which must be a whole number from `low` to `high`."""
    got = arguments.get(name)
    if got is None:
        return default
    # isascii: int() accepts the digits of every script, and ten thousand of them.
    if not (got.isascii() and got.isdigit() and len(got) <= 12 and low <= int(got) <= high):
        raise BadParameterError(name, got, f"a whole number of {unit} from {low} to {high}")
    return int(got)


def word(arguments: Arguments, name: str) -> str | None:
    """Return the parameter, which must be 1 to 40 harmless characters; None if it is missing."""
    got = arguments.get(name)
    if got is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", got):
        raise BadParameterError(name, got, "1 to 40 letters, digits, '.', '-' or '_'")
    return got
