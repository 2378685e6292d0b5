"""Check that a log of your own keeps the contracts of `flowstream.abc.Log`."""

from __future__ import annotations

from collections.abc import Callable

import trio

from flowstream.testing import (
    _append_contracts,
    _hint_contracts,
    _lease_contracts,
    _lease_end_contracts,
    _read_contracts,
    _retention_contracts,
)
from flowstream.testing._log_contract import CASE_SECONDS, CONTRACTS, LogBench, OpenStore

# Imported for the contracts that they add.
_MODULES = (
    _append_contracts,
    _read_contracts,
    _retention_contracts,
    _hint_contracts,
    _lease_contracts,
    _lease_end_contracts,
)


def log_contracts(*, several: bool = True) -> list[str]:
    """Return the contracts of a log, each as a sentence, for a test of each.

    Args:
        several: with those that open one store twice at a time.
    """
    return [one.sentence for one in CONTRACTS.values() if several or not one.several]


async def check_log(
    factory: Callable[[], OpenStore], contract: str | None = None, *, several: bool = True
) -> None:
    """Check that a log keeps its contracts. A few of them take a tenth of a second.

    ::

        def factory():
            path = f"{tempfile.mkdtemp()}/events.db"
            return partial(open_log, f"sqlite:///{path}")

        await check_log(factory)

    Args:
        factory: makes a new, empty store, and returns a function that opens it as `open_log` does:
            with ``hint=`` and ``stale=``, for ``async with``. It may be opened again.
        contract: one of `log_contracts()`; None for all of them.
        several: whether the store may be opened twice at a time.

    Raises:
        AssertionError: the log breaks a contract, which a note to the error names.
    """
    for sentence in log_contracts(several=several) if contract is None else [contract]:
        try:
            with trio.fail_after(CASE_SECONDS):
                await CONTRACTS[sentence].case(LogBench(factory()))
        except Exception as error:
            error.add_note(f"the contract: {sentence}")
            raise
