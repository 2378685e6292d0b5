"""A part of a log: it keeps what each log must keep, and sees nothing of the other parts."""

from functools import partial

import pytest

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import MemoryLog, open_log
from flowstream.logs._namespaced_log import NamespacedLog
from flowstream.testing import check_log, log_contracts

KEEP = Replay()


@pytest.mark.parametrize("contract", log_contracts(several=False))
async def test_it_keeps_the_contract(contract):
    """A part of a log is a log."""
    await check_log(lambda: partial(open_log, MemoryLog(), namespace="part"), contract)


async def test_part_of_a_file_keeps_the_contracts_of_several(tmp_path):
    """Two processes with the same part of a file are as two with a file."""
    for number, contract in enumerate(sorted({*log_contracts()} - {*log_contracts(several=False)})):
        url = f"sqlite:///{tmp_path}/{number}.db"
        await check_log(lambda: partial(open_log, url, namespace="part"), contract)  # noqa: B023


async def put(log, topic, text):
    entries = [LogEntry(text, key="k")]
    await log.append(topic, entries, keep=KEEP, token=f"{topic}{text!r}")


async def test_parts_are_apart():
    """Each has its own events, heads, newest by key, names and hints; deletion is of one alone."""
    whole = MemoryLog()
    heard = []
    one, other = NamespacedLog(whole, "one"), NamespacedLog(whole, "one.two")

    def hint(topic, before, records):
        heard.append((topic, before, [record.data for record in records]))

    def stale(topic):
        heard.append(topic)

    async with open_log(one, hint=hint, stale=stale):
        await one.watch(["t"])
        await other.watch(["t"])
        await put(one, "t", b"1")
        await put(other, "t", b"2")
        await put(whole, "t", b"3")
        heads = await one.heads(["t", "u"])
        assert {name: head.number for name, head in heads.items()} == {"t": 1, "u": 0}
        _, known, records = await one.read("t", (heads["t"].epochs[-1][0], 0), 10)
        assert (known, [record.data for record in records]) == (True, [b"1"])
        assert (await other.latest("t")).records["k"].data == b"2"
        assert await one.topics() == (["t"], None)
        assert await other.topics("t") == (["t"], None)
        assert (await whole.topics())[0] == ["one.two/t", "one/t", "t"]
        await other.delete("t")
        await one.delete("t")
        assert await whole.topics() == (["t"], None)
        assert heard == [("t", 0, [b"1"]), "t"]
        await one.unwatch(["t"])
        await put(one, "t", b"4")
        assert len(heard) == 2


async def test_pages_of_names_are_gone_through():
    """A cursor goes on in the same part."""
    whole = MemoryLog()
    part = NamespacedLog(whole, "p")
    async with open_log(part):
        names = [f"{n:04}" for n in range(1500)]
        for name in names:
            await put(part, name, b"x")
            await put(whole, f"q/{name}", b"x")
        first, cursor = await part.topics()
        rest, end = await part.topics(cursor=cursor)
    assert (first + rest, end) == (names, None)


async def test_a_log_is_opened_with_a_namespace(tmp_path):
    """`open_log(namespace=...)` yields the part, and takes no other form of a name."""
    url = f"sqlite:///{tmp_path}/events.db"
    async with open_log(url, namespace="staging") as log:
        await put(log, "t", b"1")
    async with open_log(url) as log:
        assert await log.topics() == (["staging/t"], None)
    for wrong in ("", "a/b", "ä", "x" * 65, "a b"):
        with pytest.raises(ValueError, match="namespace must have up to 64 letters"):
            async with open_log(url, namespace=wrong):
                pass


async def test_a_wrong_name_is_told_as_in_any_log():
    """An empty name is not the namespace itself, and what is no name is a sentence."""
    part = NamespacedLog(MemoryLog(), "p")
    async with open_log(part):
        for call in (
            lambda: put(part, "", b"x"),
            lambda: part.read("", ("e", 0), 1),
            lambda: part.heads([""]),
            lambda: part.delete(""),
        ):
            with pytest.raises(ValueError, match="must not be empty"):
                await call()
        with pytest.raises(TypeError, match=r"write \[name\]"):
            await part.watch("name")
