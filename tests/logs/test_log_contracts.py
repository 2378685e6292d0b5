"""Every log keeps every contract."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from flowstream.logs import MemoryLog, SQLiteLog, open_log
from flowstream.testing import check_log, log_contracts
from flowstream.testing._log_contract import OpenStore


def test_there_are_many_contracts() -> None:
    """Each is a sentence of its own."""
    assert len(log_contracts()) >= 60
    assert len(log_contracts()) - len(log_contracts(several=False)) >= 5


@pytest.mark.parametrize("contract", log_contracts(several=False))
async def test_a_log_in_memory_keeps_the_contract(contract: str) -> None:
    """In memory there is one log on a store."""
    await check_log(lambda: partial(open_log, MemoryLog()), contract)


@pytest.mark.parametrize("contract", log_contracts())
async def test_a_log_in_a_file_keeps_the_contract(contract: str, tmp_path: Path) -> None:
    """A second log on the file is as one of another process."""

    def factory() -> OpenStore:
        def opened(**callbacks: object) -> object:
            return open_log(SQLiteLog(tmp_path / "events.db"), **callbacks)  # type: ignore[arg-type]

        return opened  # type: ignore[return-value]

    await check_log(factory, contract)
