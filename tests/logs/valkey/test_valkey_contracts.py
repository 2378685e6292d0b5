"""A log in Valkey or Redis keeps every contract."""

from __future__ import annotations

from itertools import count

import pytest

from flowstream.logs import open_log
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.testing import check_log, log_contracts
from flowstream.testing._log_contract import OpenStore

_databases = count(1)


def _factory(server: str) -> OpenStore:
    url = f"{server.rsplit('/', 1)[0]}/{next(_databases)}"

    def opened(**callbacks: object) -> object:
        return open_log(ValkeyLog(url), **callbacks)  # type: ignore[arg-type]

    return opened  # type: ignore[return-value]


@pytest.mark.parametrize("contract", log_contracts())
async def test_a_log_in_valkey_keeps_the_contract(contract: str, valkey_server: str) -> None:
    """A second log in the server's database is as one of another process."""
    await check_log(lambda: _factory(valkey_server), contract)


@pytest.mark.chaos
@pytest.mark.parametrize("contract", log_contracts())
async def test_a_log_in_redis_keeps_the_contract(contract: str, redis_server: str) -> None:
    """A second log in the server's database is as one of another process."""
    await check_log(lambda: _factory(redis_server), contract)
