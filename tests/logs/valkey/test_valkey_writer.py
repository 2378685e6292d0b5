"""Appends that wait travel together in one call of a script, and each has its own result."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import count

import pytest
import trio
import trio.testing
from _odd_server import odd_server, polite
from real_servers.key_value import KeyValueServer

from flowstream import Replay
from flowstream.abc import Appended, Log, LogEntry
from flowstream.logs import FencedError, LogFullError, LogUnavailableError, open_log
from flowstream.logs.valkey._open_valkey import OpenValkey
from flowstream.logs.valkey._plain_stream import PlainStream
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.logs.valkey._valkey_scripts import script
from flowstream.logs.valkey._valkey_writer import ValkeyWriter, WaitingAppend

Own = Callable[..., KeyValueServer]
Call = Callable[[Log], Awaitable[Appended]]
KEEP = Replay(items=10_000, bytes=1 << 30)
EACH = ["valkey", pytest.param("redis", marks=pytest.mark.chaos)]


async def append(log: Log, topic: str, *entries: LogEntry, **options: object) -> Appended:
    """Append to a topic; return what became of the last entry."""
    options = {"token": f"{next(_tokens)}", "keep": KEEP, **options}
    found = await log.append(topic, entries or [LogEntry(b"x")], **options)  # type: ignore[arg-type]
    return found[-1]


_tokens = count()


def open_of(log: Log) -> OpenValkey:
    assert isinstance(log, ValkeyLog)
    assert log._open is not None
    return log._open


def writer_of(log: Log) -> ValkeyWriter:
    return open_of(log).appends


@contextmanager
def held(server: KeyValueServer) -> Iterator[None]:
    """Have the server stand still for the block."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


class Together:
    """Appends that go in one call, and what became of each."""

    def __init__(self, log: Log, server: KeyValueServer) -> None:
        self._log = log
        self._server = server
        self.results: list[Appended | Exception] = []

    async def append(self, *appends: Call) -> list[Appended | Exception]:
        """Call `append` with each of these, while the server stands still."""
        self.results = [Exception("it has no result") for _ in appends]
        async with trio.open_nursery() as nursery:
            with held(self._server):
                nursery.start_soon(append, self._log, "first")  # alone
                await trio.testing.wait_all_tasks_blocked(0.01)
                writer = writer_of(self._log)
                writer._rung = True  # until all have come
                for place, one in enumerate(appends):
                    nursery.start_soon(self._note, place, one)
                    await trio.testing.wait_all_tasks_blocked()
                assert len(writer._waiting) == len(appends)
                writer._ring()
                await trio.testing.wait_all_tasks_blocked()
                assert not writer._waiting
        return self.results

    async def _note(self, place: int, one: Call) -> None:
        try:
            self.results[place] = await one(self._log)
        except (FencedError, LogUnavailableError) as error:
            self.results[place] = error


def to(topic: str, *entries: LogEntry, **options: object) -> Call:
    return partial(_to, topic=topic, entries=entries, options=options)


async def _to(
    log: Log, topic: str, entries: tuple[LogEntry, ...], options: dict[str, object]
) -> Appended:
    return await append(log, topic, *entries, **options)


class Counter(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def test_64_appends_are_a_few_calls_and_writes_and_one_wake_up_each(own_server: Own) -> None:
    """64 tasks that append ten times: 2 to 3 calls of the script a turn, each in one write."""
    server, counter, turns = own_server("valkey"), Counter(), 10
    async with open_log(ValkeyLog(server.url)) as log:
        await append(log, "news")
        connection = await open_of(log)._writer.client.connection()
        writes: list[int] = []
        stream = connection._stream
        assert isinstance(stream, PlainStream)
        send = stream.send_nowait

        def send_nowait(data: bytes) -> int:
            writes.append(len(data))
            return send(data)

        stream.send_nowait = send_nowait  # type: ignore[method-assign,assignment]

        async def task() -> None:
            for _ in range(turns):
                await append(log, "news")

        before = server.info("commandstats")["cmdstat_evalsha"]
        trio.lowlevel.add_instrument(counter)
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(task)
        trio.lowlevel.remove_instrument(counter)
        after = server.info("commandstats")["cmdstat_evalsha"]
        assert (await log.heads(["news"]))["news"].number == 641
    calls = _calls(after) - _calls(before)
    assert calls <= 4 * turns
    # A look for what is over its time may come between.
    assert calls <= len(writes) <= calls + 5
    assert counter.steps <= 64 * (turns + 1) + 12 * calls + 20


def _calls(statistics: str) -> int:
    return int(statistics.partition("calls=")[2].partition(",")[0])


@pytest.mark.parametrize("kind", EACH)
async def test_each_append_has_its_own_result(kind: str, own_server: Own) -> None:
    """One that is fenced, one that fails and one that was done before take no other with them."""
    server = own_server(kind)
    async with open_log(ValkeyLog(server.url)) as log:
        lease = await log.claim("run", "me", seconds=60)
        before = await append(log, "news", token="known")
        await append(log, "bad")
        server.call("SET", "{flowstream}:events:bad", "no stream")
        results = await Together(log, server).append(
            to("news", LogEntry(b"a"), LogEntry(b"b")),
            to("bad"),
            to("news", token="known"),
            to("run", fence=lease.token + 1),
            to("run", fence=lease.token),
            to("news", LogEntry(b"c", idempotency_key="i", key="k")),
            to("news", LogEntry(b"c", idempotency_key="i", key="k")),
            to("news", LogEntry(b"d"), token="twice"),
            to("news", LogEntry(b"d"), token="twice"),
            to("other"),
        )
        epoch = before.epoch
        assert results[0] == (epoch, 3, False)
        assert isinstance(results[1], LogUnavailableError)
        assert results[1].maybe
        assert results[2] == before
        assert isinstance(results[3], FencedError)
        assert results[4][1:] == (1, False)  # type: ignore[index]
        assert results[5:] == [
            (epoch, 4, False),
            (epoch, 4, True),
            (epoch, 5, False),
            (epoch, 5, False),
            (epoch, 1, False),
        ]
        _, _, records = await log.read("news", (epoch, 1), 10)
        assert [(one.number, one.data) for one in records] == [
            (2, b"a"),
            (3, b"b"),
            (4, b"c"),
            (5, b"d"),
        ]
        for token, result in (("twice", results[7]), ("known", before)):
            assert await append(log, "news", token=token) == result


@pytest.mark.parametrize("kind", EACH)
async def test_an_append_that_fails_in_the_middle_leaves_those_before_it(
    kind: str, own_server: Own
) -> None:
    """The topic is where the append before it left it, and hints say the same."""
    server, heard = own_server(kind), []

    def hint(topic: str, before: int, records: object) -> None:
        heard.append((topic, before, [one.data for one in records]))  # type: ignore[attr-defined]

    async with open_log(ValkeyLog(server.url), hint=hint) as log:
        await append(log, "news", LogEntry(b"a"))
        server.call("SET", "{flowstream}:latest:news", "no hash")
        await log.watch(["news"])
        first, second = await Together(log, server).append(
            to("news", LogEntry(b"b")), to("news", LogEntry(b"c"), LogEntry(b"d", key="k"))
        )
        assert isinstance(second, LogUnavailableError)
        assert "WRONGTYPE" in str(second)
        assert first == ((await log.heads(["news"]))["news"].epochs[-1][0], 2, False)
        assert (await log.heads(["news"]))["news"].number == 2
        assert heard == [("news", 1, [b"b"])]


@pytest.mark.parametrize("kind", EACH)
async def test_a_life_that_begins_in_the_middle_of_a_call(kind: str, own_server: Own) -> None:
    """What is appended behind it has a new epoch, and each hint has the events of one epoch."""
    server, heard = own_server(kind), []

    def hint(topic: str, before: int, records: object) -> None:
        heard.append([(one.epoch, one.number) for one in records])  # type: ignore[attr-defined]

    async with open_log(ValkeyLog(server.url), hint=hint) as log:
        await append(log, "news")
        await append(log, "first")
        await log.watch(["news"])
        server.call("DEL", "{flowstream}:due")
        one, new, two = await Together(log, server).append(to("news"), to("new"), to("news"))
        assert isinstance(one, Appended)
        assert isinstance(new, Appended)
        assert isinstance(two, Appended)
        assert (one.number, two.number) == (2, 3)
        assert one.epoch < two.epoch
        head = (await log.heads(["news"]))["news"]
        assert head.epochs[-2:] == ((one.epoch, 1), (two.epoch, 3))
        assert heard == [[(one.epoch, 2)], [(two.epoch, 3)]]


@pytest.mark.parametrize("kind", EACH)
async def test_a_full_server_refuses_each_append_of_a_call(kind: str, own_server: Own) -> None:
    """Nothing of them is appended; the one that is fenced is told so."""
    server = own_server(kind)
    async with open_log(ValkeyLog(server.url)) as log:
        lease = await log.claim("run", "me", seconds=60)
        await append(log, "news")
        await append(log, "first")
        server.config(maxmemory="1")
        together = Together(log, server)
        with pytest.raises(BaseExceptionGroup):  # the one that is alone
            await together.append(to("news"), to("run", fence=lease.token + 1), to("new"))
        server.config(maxmemory="0")
        results = together.results
        assert [type(one) for one in results] == [LogFullError, FencedError, LogFullError]
        assert (await log.topics())[0] == ["first", "news"]
        assert (await log.heads(["news"]))["news"].number == 1


@pytest.mark.parametrize(
    ("waiting", "entries", "size", "under_way", "taken"),
    [
        (64, 1, 10, 0, 32),  # in halves: one is read while the server does the other
        (64, 1, 10, 1, 64),
        (20, 1, 10, 0, 16),
        (5, 1, 10, 0, 5),
        (3000, 1, 10, 1, 1024),
        (64, 100, 10, 1, 10),
        (64, 1, 300_000, 1, 3),
        (3, 5000, 10, 1, 1),  # one that is larger goes alone
        (3, 1, 9 << 20, 1, 1),
    ],
)
def test_how_much_goes_into_a_call(
    waiting: int, entries: int, size: int, under_way: int, taken: int
) -> None:
    """Up to 1,024 entries and 1 MiB of them, or one append; what is left stays in its order."""
    writer = ValkeyWriter(None)  # type: ignore[arg-type]
    jobs = [WaitingAppend([], entries, size) for _ in range(waiting)]
    writer._waiting = dict.fromkeys(jobs)
    writer._calls = under_way
    assert writer._take() == jobs[:taken]
    assert list(writer._waiting) == jobs[taken:]
    assert [job.asked for job in jobs] == [True] * taken + [False] * (waiting - taken)


class Scripts:
    """A server that says what a test wants to the scripts of a log."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []  # the topics of each call that appends
        self.gate = trio.Event()
        self.gate.set()
        self.fault = b""
        self.replicas = 1

    async def answer(self, command: list[bytes], _: object) -> bytes:
        if command[0] == b"SCRIPT":
            return b"+sha\r\n"
        if command[0] == b"SUBSCRIBE":
            return b"".join(
                b">3\r\n$9\r\nsubscribe\r\n$%d\r\n%s\r\n:1\r\n" % (len(name), name)
                for name in command[1:]
            )
        if command[0] == b"WAIT":
            return b":%d\r\n" % self.replicas
        if command[0] == b"EVALSHA":
            if command[1].decode() != script("append").sha:
                return b":0\r\n"
            words, topics = command[9:], []
            while words:
                topics.append(words[0])
                words = words[6 + int(words[4]) + 4 * int(words[5]) :]
            self.calls.append(topics)
            await self.gate.wait()
            return self.fault or b"*%d\r\n" % len(topics) + b"+e:1:0:1\r\n" * len(topics)
        return polite(command)


@asynccontextmanager
async def scripted(scripts: Scripts, **options: object) -> AsyncIterator[Log]:
    async with odd_server(scripts.answer) as server:
        url = f"valkey://127.0.0.1:{server.port}"
        async with open_log(ValkeyLog(url, **options)) as log:  # type: ignore[arg-type]
            yield log


async def test_a_cancelled_append_is_withdrawn_or_its_reply_thrown_away(
    autojump_clock: object,
) -> None:
    """It leaves at once; the others of its call have their results."""
    scripts = Scripts()
    done: list[str] = []

    async def one(log: Log, topic: str, scope: trio.CancelScope) -> None:
        with scope:
            await append(log, topic)
            done.append(topic)

    async with scripted(scripts) as log, trio.open_nursery() as nursery:
        scripts.gate = trio.Event()
        scopes = {name: trio.CancelScope() for name in "abcdef"}
        for name in "abcdef":
            nursery.start_soon(one, log, name, scopes[name])
            await trio.testing.wait_all_tasks_blocked()
        writer = writer_of(log)
        assert (writer._calls, len(writer._waiting)) == (2, 4)  # a, and b behind it, are sent
        for name in "bd":
            scopes[name].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (len(writer._waiting), len(writer._pending)) == (3, 4)
        scripts.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(done) == ["a", "c", "e", "f"]
        assert [b"d" in call for call in scripts.calls] == [False] * len(scripts.calls)
        assert (writer._calls, len(writer._waiting), len(writer._pending)) == (0, 0, 0)


async def test_an_append_that_waits_ends_with_its_patience(autojump_clock: object) -> None:
    """Each when its own is over; the one that was in a call is a maybe, the other is not."""
    scripts, ends = Scripts(), []

    async def one(log: Log) -> None:
        begin = trio.current_time()
        with pytest.raises(LogUnavailableError, match="not answered for 2 s") as raised:
            await append(log, "news")
        ends.append((round(trio.current_time() - begin, 3), raised.value.maybe))

    async with scripted(scripts, patience=2) as log, trio.open_nursery() as nursery:
        scripts.gate = trio.Event()
        for _ in range(4):
            nursery.start_soon(one, log)
            await trio.sleep(0.25)
        await trio.sleep(1.8)
        assert ends == [(2, True), (2, True), (2, False), (2, False)]
        scripts.gate.set()
        await append(log, "news")


async def test_the_end_of_the_patience_says_what_was_wrong_last(autojump_clock: object) -> None:
    """Too few replicas, for an append and for another call that writes."""
    scripts = Scripts()
    async with scripted(scripts, wait_replicas=2, patience=2) as log:
        for call in (append(log, "news"), log.claim("run", "me", seconds=60)):
            with pytest.raises(LogUnavailableError, match=r"for 2 s: .*: 1 of 2 replicas") as why:
                await call
            assert why.value.maybe
        assert len(scripts.calls) > 50  # it is tried again each 20 ms


async def test_a_busy_server_is_asked_again(autojump_clock: object) -> None:
    """Nothing was done, so it is no maybe; when it has time, the same append succeeds."""
    scripts = Scripts()
    async with scripted(scripts, patience=2) as log:
        for fault in (b"-BUSY a script runs\r\n", b"*1\r\n-NOREPLICAS not enough\r\n"):
            scripts.fault = fault
            with pytest.raises(LogUnavailableError, match="for 2 s") as raised:
                await append(log, "news")
            assert not raised.value.maybe
            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, log, "news")
                await trio.sleep(1)
                scripts.fault = b""


@pytest.mark.parametrize("fault", [b":0\r\n", b"_\r\n", b"*2\r\n+e:1:0:1\r\n+e:1:0:1\r\n"])
async def test_a_server_that_answers_something_else_is_left(
    fault: bytes, autojump_clock: object
) -> None:
    """Nobody knows what it has done; the log goes on, over the next connection."""
    scripts = Scripts()
    async with scripted(scripts, patience=2) as log:
        scripts.fault = fault
        with pytest.raises(LogUnavailableError, match="for 2 s") as raised:
            await append(log, "news")
        assert raised.value.maybe
        scripts.fault = b""
        await append(log, "news")


async def test_a_server_that_became_a_replica_is_left(autojump_clock: object) -> None:
    """Also when it says so of a single append; the append is made over the next connection."""
    scripts = Scripts()
    async with scripted(scripts) as log, trio.open_nursery() as nursery:
        client = open_of(log)._writer.client
        scripts.fault = b"*1\r\n-READONLY You can't write against a read only replica.\r\n"
        nursery.start_soon(append, log, "news")
        await trio.testing.wait_all_tasks_blocked()
        scripts.fault = b""
        nursery.cancel_scope.deadline = trio.current_time() + 60
    assert client.connections > 1
    assert not nursery.cancel_scope.cancelled_caught


async def test_appends_end_when_the_log_is_closed(autojump_clock: object) -> None:
    """At once, and those that were sent are a maybe."""
    scripts, ends = Scripts(), []

    async def one(log: Log) -> None:
        with pytest.raises(LogUnavailableError, match="was closed") as raised:
            await append(log, "news")
        ends.append((trio.current_time() - begin, raised.value.maybe))

    async with trio.open_nursery() as nursery, scripted(scripts) as log:
        scripts.gate = trio.Event()
        begin = trio.current_time()
        for _ in range(3):
            nursery.start_soon(one, log)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(ends) == [(0, False), (0, True), (0, True)]


async def test_a_user_who_may_not_wait_is_told_at_once(own_server: Own) -> None:
    """The event was appended, so it is a maybe; for another call that writes, too."""
    server = own_server("valkey")
    server.add_user("app", "secret", "~*", "&*", "+@all", "-wait")
    url = f"valkey://app:secret@127.0.0.1:{server.port}/0?wait_replicas=1"
    async with open_log(ValkeyLog(url, patience=3600)) as log:
        for call in (append(log, "news"), log.claim("run", "me", seconds=60)):
            with pytest.raises(LogUnavailableError, match="lacks a permission") as raised:
                await call
            assert raised.value.maybe
        assert (await log.heads(["news"]))["news"].number == 1
