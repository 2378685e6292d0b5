"""The rights that the documentation asks for are enough, and none is too many."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from real_servers.key_value import KeyValueServer

from flowstream.abc import LogEntry
from flowstream.limits import Replay
from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.testing import check_log

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "valkey.md"
Own = Callable[..., KeyValueServer]


def documented() -> list[str]:
    """Return the rules of the page's ``ACL SETUSER``, behind the password."""
    found = re.search(r"^ACL SETUSER app (.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    rules = found[1].replace("\\\n", " ").split()
    assert rules[:3] == ["reset", "on", ">secret"]
    return rules[3:]


def url_of(server: KeyValueServer, database: int = 0) -> str:
    return f"{server.kind}://app:secret@127.0.0.1:{server.port}/{database}"


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_user_with_the_documented_rights_keeps_every_contract(
    own_server: Own, kind: str
) -> None:
    """With these rights alone, all contracts of a log hold."""
    server, databases = own_server(kind), count(1)
    server.add_user("app", "secret", *documented())

    def factory() -> Callable[..., object]:
        url = url_of(server, next(databases))
        return lambda **callbacks: open_log(ValkeyLog(url), **callbacks)

    await check_log(factory)  # type: ignore[arg-type]


@pytest.mark.chaos
async def test_each_documented_right_is_needed(own_server: Own) -> None:
    """Without any single one of them, some call that a log makes is refused."""
    server = own_server("valkey")
    used = {name.removeprefix("cmdstat_") for name in await _commands_of_a_life(server)}
    allowed = {rule[1:] for rule in documented() if rule.startswith("+")}
    # These are for what is rare: silence, a full table of tokens or keys, a replica.
    rare = {"ping", "rename", "hdel", "zpopmin", "persist", "wait", "zrangebyscore", "exists"}
    assert allowed - used <= rare
    assert used - allowed <= {"hello", "client|setname", "client|setinfo", "auth"}


async def _commands_of_a_life(server: KeyValueServer) -> set[str]:
    server.add_user("app", "secret", *documented())
    server.call("CONFIG", "RESETSTAT")
    keep = Replay(seconds=60)
    async with open_log(ValkeyLog(url_of(server, 1))) as log:
        await log.watch(["news"])
        entries = [LogEntry(b"a", key="k", idempotency_key="i")]
        await log.append("news", entries, keep=keep, token="t")
        await log.read("news", ("e", 0), 10, mine=True)
        await log.latest("news")
        await log.topics()
        await log.leases(["news"])
        await log.claim("run", "me", seconds=60)
        await log.trim("news", Replay(items=0))
        await log.delete("news")
        await log.unwatch(["news"])
    asked = {"config", "acl", "save", "info|commandstats"}
    stats = server.info("commandstats")
    return {name for name in stats if name.removeprefix("cmdstat_").split("|")[0] not in asked}


async def test_a_missing_right_is_said(own_server: Own) -> None:
    """A user who may not write is told so when the log is opened, without the password."""
    server = own_server("valkey")
    rules = [rule for rule in documented() if rule != "+hset"]
    server.add_user("app", "secret", *rules)
    with pytest.raises(LogUnavailableError, match=r"permission|ACL") as raised:
        async with open_log(ValkeyLog(url_of(server))):
            pass
    assert "secret" not in str(raised.value)
