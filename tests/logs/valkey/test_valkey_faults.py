"""What readers and publishers of a log in Valkey see when its server fails: row by row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
from real_servers.key_value import KeyValueServer

from flowstream.abc import Head, LogEntry, Position
from flowstream.limits import Replay
from flowstream.logs import LogFullError, LogUnavailableError, open_log
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.testing._log_contract import LogBench, LogUnderTest, cancelled_after, numbers

Own = Callable[..., KeyValueServer]


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.chaos)])
def server(request: pytest.FixtureRequest, own_server: Own) -> KeyValueServer:
    """A server of the test's own that loses nothing when it is killed."""
    return own_server(request.param, appendfsync="always")


def bench(server: KeyValueServer, **options: object) -> LogBench:
    return LogBench(partial(open_log, ValkeyLog(server.url, **options)))  # type: ignore[arg-type]


async def in_thread(function: Callable[..., object], *arguments: object) -> None:
    await trio.to_thread.run_sync(function, *arguments)


async def data_behind(one: LogUnderTest, after: Position) -> list[tuple[str, int, bytes]]:
    _, known, records = await one.log.read("news", after, 100, mine=True)
    assert known, after
    return [record[:3] for record in records]


async def test_a_killed_server_that_lost_nothing_begins_a_new_epoch(server: KeyValueServer) -> None:
    """The same call succeeds, its event follows on, and hints come again."""
    async with bench(server).open() as one:
        await one.log.watch(["news"])
        await one.append("news", b"a", b"b", b"c")
        old = await one.position("news")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, server.restart)
            await trio.lowlevel.checkpoint()
            (done,) = await one.append("news", b"d")
        assert done.number == 4
        await one.until(lambda: 4 in one.heard["news"] or one.stale)
        # Whether the call came before the kill or after it is chance; the next one comes after.
        (done,) = await one.append("news", b"e")
        assert (done.number, done.epoch > old[0]) == (5, True)
        assert None in one.stale
        assert [row[2] for row in await data_behind(one, old)] == [b"d", b"e"]
        (done,) = await one.append("news", b"f")
        await one.until(lambda: 6 in one.heard["news"])
        assert done.epoch == (await one.position("news"))[0]


async def lose_last(server: KeyValueServer) -> None:
    """Kill the server, cut the last commit off its file, and start it."""
    await in_thread(server.kill)
    assert server.cut_aof(10) == 10
    await in_thread(server.start)


async def test_a_lost_tail_is_a_gap_and_no_id_stands_for_two_events(server: KeyValueServer) -> None:
    """The number of the lost event comes again, in an epoch that sorts behind."""
    async with bench(server).open() as one:
        await one.append("news", b"kept")
        await one.append("news", b"lost")
        old = await one.position("news")
        await lose_last(server)
        (done,) = await one.append("news", b"new")
        assert (done.number, done.epoch > old[0]) == (2, True)
        assert await data_behind(one, old) == [(done.epoch, 2, b"new")]
        assert (await one.head("news")).epochs[-1] == (done.epoch, 2)


async def test_a_wrong_promise_gives_an_id_twice(server: KeyValueServer) -> None:
    """The negative control: with `never_rolls_back` nobody asks who the server is."""
    async with bench(server, never_rolls_back=True).open() as one:
        await one.append("news", b"kept")
        (lost,) = await one.append("news", b"lost")
        await lose_last(server)
        assert await one.append("news", b"new") == [lost]


async def test_a_reader_that_has_more_than_the_server_is_evidence(server: KeyValueServer) -> None:
    """Even where a wrong promise was made, a reader's own position begins a new epoch."""
    async with bench(server, never_rolls_back=True).open() as one:
        await one.append("news", b"kept")
        await one.append("news", b"lost")
        old = await one.position("news")
        await lose_last(server)
        assert await data_behind(one, old) == []
        (done,) = await one.append("news", b"new")
        assert (done.number, done.epoch > old[0]) == (2, True)


async def test_a_retry_with_a_key_after_a_rollback_is_published_again(
    server: KeyValueServer,
) -> None:
    """Under another id: the first event was lost, and so was its key."""
    entry = LogEntry(b"a", idempotency_key="k")
    async with bench(server).open() as one:
        await one.append("news", b"first")
        (first,) = await one.append("news", entry, token="t")
        await lose_last(server)
        (second,) = await one.append("news", entry, token="t")
        assert (second.number, second.duplicate, second.epoch > first.epoch) == (2, False, True)
        assert (await one.append("news", entry))[0].duplicate


async def test_a_flushed_server_begins_anew(server: KeyValueServer) -> None:
    """Readers' positions are unknown, topics have epochs that sort behind, and publishers go on."""
    async with bench(server).open() as one:
        await one.log.watch(["news"])
        await one.append("news", b"a", b"b")
        old, empty = await one.position("news"), await one.position("other")
        server.flush()
        (done,) = await one.append("news", b"c")
        assert (done.number, done.epoch > old[0]) == (1, True)
        await one.until(lambda: None in one.stale)
        for topic, position in (("news", old), ("other", empty)):
            assert (await one.log.read(topic, position, 10, mine=True))[1] is False
        lease = await one.log.claim("run", "me", seconds=60)
        server.flush()
        assert (await one.log.claim("run", "me", seconds=60)).token > lease.token


@pytest.mark.parametrize(
    "keys",
    [
        ["topic:news"],
        ["topic:news", "events:news"],
        ["log"],
        ["due"],
        ["topic:news", "due", "names"],
        ["topic:news", "events:news", "tokens:news", "due", "names"],
    ],
)
async def test_a_key_that_was_deleted_by_hand_never_makes_an_id_come_twice(
    server: KeyValueServer, keys: list[str]
) -> None:
    """As when the server evicts it: the topic goes on in an epoch that sorts behind."""
    async with bench(server).open() as one:
        await one.append("news", b"a", b"b")
        await one.append("other", b"a")
        old = await one.position("news")
        server.call("DEL", *(f"{{flowstream}}:{key}" for key in keys))
        if keys != ["due"]:
            (done,) = await one.append("news", b"c")
            assert done.epoch > old[0]
        await one.append("late", b"a")  # a topic that is made finds that the list is gone
        (done,) = await one.append("news", b"d")
        assert done.epoch > old[0]
        await one.append("other", b"b")
        assert (await one.log.topics())[0] == ["late", "news", "other"]
        assert [record.data for record in await one.everything("news")][-1] == b"d"


async def test_events_that_were_deleted_by_hand_are_a_gap(server: KeyValueServer) -> None:
    """The numbers go on, and a reader sees which are missing."""
    async with bench(server).open() as one:
        epoch, _ = await one.position("news")
        await one.append("news", b"a", b"b")
        server.call("DEL", "{flowstream}:events:news")
        (done,) = await one.append("news", b"c")
        assert await data_behind(one, (epoch, 0)) == [(epoch, 3, b"c")]
        assert await one.head("news") == Head(((epoch, 1),), done.number, 3)


async def test_a_stalled_server_is_a_maybe_and_the_event_appears_once(
    server: KeyValueServer,
) -> None:
    """A publisher that calls again with its token gets the first result."""
    async with bench(server, patience=0.4).open() as one:
        await one.append("news", b"a")
        server.freeze()
        try:
            with pytest.raises(LogUnavailableError) as raised:
                await one.append("news", b"b", token="t")
        finally:
            server.thaw()
        assert raised.value.maybe
        while True:
            try:
                assert numbers(await one.append("news", b"b", token="t")) == [2]
            except LogUnavailableError:
                continue
            break
        assert [record.data for record in await one.everything("news")] == [b"a", b"b"]


async def test_a_full_server_refuses_and_is_read_from(server: KeyValueServer) -> None:
    """Nothing is appended, nor half of it, and when there is room it goes on."""
    async with bench(server).open() as one:
        await one.append("news", b"a")
        before = await one.head("news")
        server.config(maxmemory="1")
        for topic in ("news", "new"):
            with pytest.raises(LogFullError, match="maxmemory"):
                await one.append(topic, b"x", b"y")
        with pytest.raises(LogFullError):
            await one.log.claim("run", "me", seconds=60)
        assert await one.head("news") == before
        assert len(await one.everything("news")) == 1
        assert await one.log.topics() == (["news"], None)
        server.config(maxmemory="0")
        assert numbers(await one.append("news", b"b")) == [2]
        assert numbers(await one.append("new", b"b")) == [1]


async def test_a_lost_connection_makes_all_stale(server: KeyValueServer) -> None:
    """A hint was lost on the way; a read finds the event."""
    async with bench(server).open() as one, bench(server).open() as two:
        await one.log.watch(["news"])
        await two.append("news", b"a")
        await one.until(lambda: 1 in one.heard.get("news", {}))
        after = await one.position("news")
        server.call("CLIENT", "KILL", "TYPE", "pubsub")
        await two.append("news", b"b")
        await one.until(lambda: None in one.stale)
        assert [row[1:] for row in await data_behind(one, after)] == [(2, b"b")]


@pytest.mark.chaos
async def test_a_replica_is_not_written_to(own_server: Own) -> None:
    """A server that was demoted and promoted again is another one: what it copied may lack some."""
    server, other = own_server("valkey"), own_server("valkey")
    async with bench(server, patience=0.5).open() as one:
        await one.append("news", b"a")
        old = await one.position("news")
        await in_thread(other.replica_of, server)
        await in_thread(server.replica_of, other)
        with pytest.raises(LogUnavailableError, match="replica"):
            await one.append("news", b"b")
        await in_thread(server.promote)
        while True:
            try:
                (done,) = await one.append("news", b"c", token="t")
            except LogUnavailableError:
                continue
            break
        assert done.epoch > old[0]
        assert [row[1:] for row in await data_behind(one, old)] == [(done.number, b"c")]


@pytest.mark.chaos
@pytest.mark.parametrize("in_step", [True, False])
async def test_a_failover_is_a_new_epoch(own_server: Own, in_step: bool) -> None:
    """To a replica in step nothing is lost; what one that lags lacks is a gap."""
    first, second = own_server("valkey"), own_server("valkey")
    await in_thread(second.replica_of, first)
    both = f"valkey://127.0.0.1:{first.port},127.0.0.1:{second.port}/0"
    async with LogBench(partial(open_log, ValkeyLog(both))).open() as one:
        await one.append("news", b"a")
        await in_thread(second.wait_in_step, first)
        if not in_step:
            second.freeze()
        await one.append("news", b"b")
        if in_step:
            await in_thread(second.wait_in_step, first)
        old = await one.position("news")
        await in_thread(first.kill)
        if not in_step:
            second.thaw()
        await in_thread(second.promote)
        (done,) = await one.append("news", b"c")
        assert done.epoch > old[0]
        # What waited in the socket of the frozen one may have come through after all.
        assert done.number in ((3,) if in_step else (2, 3))
        assert await data_behind(one, old) == [(done.epoch, done.number, b"c")]


@pytest.mark.chaos
async def test_what_the_loser_of_a_split_brain_took_is_a_gap_for_its_readers(
    own_server: Own,
) -> None:
    """Both sides give the number 2; the loser's reader finds the winner's event behind its own."""
    loser, winner = own_server("valkey"), own_server("valkey")
    await in_thread(winner.replica_of, loser)
    async with bench(loser).open() as one, bench(loser).open() as reader:
        await one.append("news", b"a")
        await in_thread(winner.wait_in_step, loser)
        await in_thread(winner.promote)
        async with bench(winner).open() as two:
            (lost,) = await one.append("news", b"lost")
            old = await reader.position("news")
            assert old == (lost.epoch, 2)
            (won,) = await two.append("news", b"won", token="the winner's")
            assert won.number == 2
            assert won.epoch != lost.epoch
            assert await data_behind(two, old) == [(won.epoch, 2, b"won")]


@pytest.mark.chaos
async def test_a_replica_that_stands_still_makes_no_publisher_certain(own_server: Own) -> None:
    """Neither the first call nor the same one again, which finds its token."""
    server, replica = own_server("valkey"), own_server("valkey")
    await in_thread(replica.replica_of, server)
    async with bench(server, wait_replicas=1, patience=1.5).open() as one:
        await one.append("news", b"a")
        replica.freeze()
        try:
            for _ in range(2):
                with pytest.raises(LogUnavailableError) as raised:
                    await one.append("news", b"b", token="t")
                assert raised.value.maybe
        finally:
            replica.thaw()
        assert numbers(await one.append("news", b"b", token="t")) == [2]
        assert (await one.head("news")).number == 2


async def test_a_thousand_cancelled_calls_leave_no_reply_owed(server: KeyValueServer) -> None:
    """Nor a connection lost, nor an answer given to another call."""
    async with bench(server).open() as one:
        keep = Replay(items=10)
        for number in range(1000):
            calls = (
                partial(one.append, "news", b"%d" % number, keep=keep),
                partial(one.log.read, "news", ("e", 0), 10),
                partial(one.log.heads, ["news", "other"]),
                partial(one.log.leases, ["news"]),
            )
            await cancelled_after(number % 5, calls[number % 4])
        await one.append("news", b"last")
        assert (await one.everything("news"))[-1].data == b"last"
        opened = one.log._open  # type: ignore[attr-defined]
        for caller in (opened._writer, opened._reader):
            assert caller.client.connections == 1
            connection = await caller.client.connection()
            assert connection._conversation.owed == 0
