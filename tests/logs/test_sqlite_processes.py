"""Several processes on one file: they share one order, and `kill -9` loses nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from flowstream import Replay
from flowstream.abc import Log, LogEntry, Record
from flowstream.logs import LogUnavailableError, SQLiteLog, open_log

PUBLISHER = Path(__file__).parent / "_publisher.py"
KEEP = Replay(items=10**7, bytes=1 << 40)
Acknowledged = dict[str, tuple[str, int]]  # {token: (epoch, number)}


class Publisher:
    """A process that publishes; `acknowledged` has what it printed."""

    def __init__(self, name: str, url: str, count: int, lanes: int = 4) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PUBLISHER, name, url, str(count), str(lanes)], stdout=subprocess.PIPE
        )
        self.acknowledged: Acknowledged = {}

    def read(self, lines: int) -> None:
        """Read so many lines of what it prints; fewer if it ends."""
        assert self.process.stdout is not None
        for _ in range(lines):
            line = self.process.stdout.readline().decode()
            if not line.endswith("\n"):
                return
            token, epoch, number = line.split()
            self.acknowledged[token] = epoch, int(number)

    def end(self) -> None:
        """Read all that is left, and wait for its end."""
        self.read(10**9)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(60)


@pytest.fixture
def publishers() -> Iterator[list[Publisher]]:
    """Kill at the end what was started in the test."""
    started: list[Publisher] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.end()


async def everything(log: Log) -> list[Record]:
    head = (await log.heads(["news"]))["news"]
    after = head.epochs[0][0], head.epochs[0][1] - 1
    found: list[Record] = []
    while True:
        _, known, records = await log.read("news", after, 1000)
        assert known
        if not records:
            return found
        found += records
        after = records[-1].epoch, records[-1].number


async def test_two_processes_and_a_reader_have_one_order(
    tmp_path: Path, publishers: list[Publisher]
) -> None:
    """Numbers are dense, each is one event, and hints with reads give all of it in order."""
    url = f"sqlite:///{tmp_path}/events.db"
    heard: dict[int, Record] = {}
    news = trio.Event()

    def hint(topic: str, before: int, records: Sequence[Record]) -> None:
        heard.update({record.number: record for record in records})
        if len(heard) >= 800:
            news.set()

    def stale(topic: str | None) -> None:
        news.set()

    async with open_log(url, hint=hint, stale=stale) as log:
        await log.watch(["news"])
        publishers += [Publisher("a", url, 100), Publisher("b", url, 100)]
        for one in publishers:
            await trio.to_thread.run_sync(one.end)
            assert one.process.returncode == 0
        with trio.fail_after(30):
            await news.wait()
        found = await everything(log)
    assert [record.number for record in found] == list(range(1, 801))
    known = [record._replace(age=0.0) for record in found]
    assert {record._replace(age=0.0) for record in heard.values()} <= {*known}
    acknowledged = publishers[0].acknowledged | publishers[1].acknowledged
    assert len(acknowledged) == 800
    assert {r.data.decode(): (r.epoch, r.number) for r in found} == acknowledged
    for name in ("a", "b"):
        for lane in range(4):
            prefix = f"{name}-{lane}-".encode()
            own = [int(r.data.split(b"-")[2]) for r in found if r.data.startswith(prefix)]
            assert own == list(range(100))


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(
    synchronous: str, tmp_path: Path, publishers: list[Publisher]
) -> None:
    """After five kills each acknowledged event is there, at its number, in one epoch."""
    url = f"sqlite:///{tmp_path}/events.db?synchronous={synchronous}"
    dice = random.Random(13)
    acknowledged: Acknowledged = {}
    async with open_log(url) as log:
        for life in range(5):
            survivor = Publisher(f"survivor{life}", url, 40, lanes=1)
            killed = Publisher(f"killed{life}", url, 10**6)
            publishers += [survivor, killed]
            await trio.to_thread.run_sync(killed.read, dice.randrange(1, 150))
            killed.process.send_signal(signal.SIGKILL)
            for one in (killed, survivor):
                await trio.to_thread.run_sync(one.end)
                acknowledged |= one.acknowledged
            assert (killed.process.returncode, survivor.process.returncode) == (-9, 0)
            # What was cut off is done with its token: it is there once, however it was cut.
            for lane in range(4):
                done = sum(f"killed{life}-{lane}-" in token for token in killed.acknowledged)
                token = f"killed{life}-{lane}-{done}"
                (found,) = await log.append(
                    "news", [LogEntry(token.encode())], keep=KEEP, token=token
                )
                acknowledged[token] = found.epoch, found.number
        records = await everything(log)
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    places = {record.data.decode(): (record.epoch, record.number) for record in records}
    assert len(places) == len(records), "an event is there twice"
    assert acknowledged.items() <= places.items()
    assert len({record.epoch for record in records}) == 1
    assert len(places) <= len(acknowledged) + 20


async def test_a_process_that_stands_still_holds_nobody_up_for_long(
    tmp_path: Path, publishers: list[Publisher]
) -> None:
    """A publisher that is stopped anywhere delays an append by `patience` at the most."""
    path = tmp_path / "events.db"
    async with open_log(SQLiteLog(path, patience=1)) as log:
        for number in range(5):
            stopped = Publisher("stopped", f"sqlite:///{path}", 10**6, lanes=1)
            publishers.append(stopped)
            await trio.to_thread.run_sync(stopped.read, 3)
            stopped.process.send_signal(signal.SIGSTOP)
            append = partial(log.append, "other", [LogEntry(b"x")], keep=KEEP, token=f"{number}")
            with trio.fail_after(30):
                try:
                    done = await append()
                except LogUnavailableError as error:  # it was stopped while it had the lock
                    assert not error.maybe  # noqa: PT017
                    stopped.process.kill()
                    done = await append()
            assert done[0].number == number + 1
            stopped.process.kill()
            await trio.to_thread.run_sync(stopped.end)


async def test_heads_of_512_topics_are_one_statement(tmp_path: Path) -> None:
    """Also where each has events that go out of date."""
    keep = Replay(seconds=3600)
    names = [f"topic {number}" for number in range(512)]
    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        for name in names[::2]:
            await log.append(name, [LogEntry(b"x")], keep=keep, token="t")
        await log.heads(["topic 0"])
        statements: list[str] = []
        ((_, db),) = log._open._idle  # type: ignore[attr-defined]
        db.set_trace_callback(statements.append)
        heads = await log.heads(names)
        assert [heads[name].number for name in names] == [1, 0] * 256
        assert len([one for one in statements if " topic where name" in one]) == 1
        assert len(statements) == 4  # with the snapshot's begin, the log's row, and its end


async def test_many_rows_are_few_statements(tmp_path: Path) -> None:
    """64 events, and 64 tokens, are one each; an append is not paid for by the event."""
    statements: list[str] = []
    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        await log.append("news", [LogEntry(b"x")], keep=Replay(), token="first")
        log._open.writer._db.set_trace_callback(statements.append)  # type: ignore[attr-defined]
        await log.append("news", [LogEntry(b"x")] * 1024, keep=Replay(), token="many")
        inserts = [one for one in statements if one.startswith("insert into event")]
        assert len(inserts) == 16
        assert len(statements) - len(inserts) < 10
