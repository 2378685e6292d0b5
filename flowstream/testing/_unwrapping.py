"""An exception out of a nursery, as a test wants to see it."""

from __future__ import annotations


def only(error: BaseException) -> BaseException:
    """Return the one exception inside groups of one, or the group where there are more."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
