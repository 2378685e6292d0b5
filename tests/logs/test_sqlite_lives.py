"""When topics of a log on SQLite begin a new epoch, and when they must not; and what time it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from flowstream import Replay
from flowstream._clock import clock
from flowstream.abc import Head, Log, LogEntry
from flowstream.logs import SQLiteLog, open_log
from flowstream.logs import _sqlite_tail as sqlite_tail
from flowstream.logs import _sqlite_writer as sqlite_writer
from flowstream.logs._log_clock import LogClock, boot_id


class Machine:
    """A machine that can be started again, and whose clock can be set.

    Attributes:
        since_boot: seconds since its boot.
        wall: its date.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / "events.db"
        self._boots = 0
        self.since_boot = 5.0
        self.wall = 1.8e9

    def restart(self) -> None:
        """Boot anew, a minute later."""
        self._boots += 1
        self.since_boot = 5.0
        self.wall += 60

    def later(self, seconds: float) -> None:
        """Let time go by."""
        self.since_boot += seconds
        self.wall += seconds

    def log(self, synchronous: str = "FULL") -> SQLiteLog:
        """Return a log of a process of this machine."""
        log = SQLiteLog(self._path, synchronous)  # type: ignore[arg-type]
        log._file.clock = LogClock(
            f"boot {self._boots}", lambda: self.since_boot, lambda: self.wall
        )
        return log

    def tables(self, query: str) -> list[tuple[object, ...]]:
        """Return what is in the file."""
        db = sqlite3.connect(self._path)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(clock, "wall_time", lambda: made.wall)
    return made


async def append(log: Log, topic: str = "news", keep: Replay = Replay()) -> tuple[str, int]:  # noqa: B008
    append.count += 1  # type: ignore[attr-defined]
    token = f"t{append.count}"  # type: ignore[attr-defined]
    (done,) = await log.append(topic, [LogEntry(token.encode())], keep=keep, token=token)
    return done.epoch, done.number


append.count = 0  # type: ignore[attr-defined]


async def head(log: Log, topic: str = "news") -> Head:
    return (await log.heads([topic]))[topic]


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("FULL", "FULL", False),
        ("FULL", "NORMAL", False),
        ("NORMAL", "FULL", True),
        ("NORMAL", "NORMAL", True),
    ],
)
async def test_an_epoch_ends_with_the_boot_if_commits_were_not_flushed(
    before: str, after: str, new: bool, machine: Machine
) -> None:
    """What counts is how the last process of the boot wrote; and each topic begins one."""
    async with open_log(machine.log(before)) as log:
        first = [await append(log, topic) for topic in ("news", "other")]
    machine.restart()
    async with open_log(machine.log(after)) as log:
        for topic, (epoch, _) in zip(("news", "other"), first, strict=True):
            position = await append(log, topic)
            assert position[1] == 2
            assert (position[0] != epoch) is new
            assert position[0] >= epoch
            heads = await head(log, topic)
            assert [number for _, number in heads.epochs] == ([1, 2] if new else [1])


async def test_the_end_of_a_process_begins_no_epoch(machine: Machine) -> None:
    """Within one boot the kernel has all that was written, flushed or not."""
    epochs = set()
    for synchronous in ("NORMAL", "FULL", "NORMAL", "NORMAL", "FULL"):
        async with open_log(machine.log(synchronous)) as log:
            epochs.add((await append(log))[0])
    assert len(epochs) == 1


async def test_a_flushed_commit_makes_good_what_was_not_flushed(machine: Machine) -> None:
    """A process with FULL that wrote last leaves nothing that a power cut could take."""
    async with open_log(machine.log("NORMAL")) as log:
        epoch, _ = await append(log)
    async with open_log(machine.log("FULL")) as log:
        await append(log)
    machine.restart()
    async with open_log(machine.log("NORMAL")) as log:
        assert await append(log) == (epoch, 3)


async def test_the_mark_of_unflushed_commits_is_flushed_before_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could take the mark with the events, and numbers would be used again."""
    statements: list[str] = []
    connect = sqlite_writer.SQLiteFile.connect

    def traced(file: sqlite_writer.SQLiteFile, timeout: float = 0.0) -> sqlite3.Connection:
        db = connect(file, timeout)
        db.set_trace_callback(lambda text: statements.append(text.lower()))
        return db

    monkeypatch.setattr(sqlite_writer.SQLiteFile, "connect", traced)
    async with open_log(machine.log("NORMAL")) as log:
        await append(log)
    flushed = statements.index("pragma synchronous=full")
    mark = statements.index("update log set unsynced = 'boot 0'", flushed)
    commit = statements.index("commit", mark)
    assert statements[commit + 1] == "pragma synchronous=normal"
    events = [at for at, text in enumerate(statements) if text.startswith("insert into event")]
    assert events
    assert min(events) > commit


def backup(source: Path, target: Path) -> None:
    """Copy a database into another file, as `sqlite3 .backup` and `.restore` do."""
    one, two = sqlite3.connect(source), sqlite3.connect(target)
    try:
        one.backup(two)
    finally:
        one.close()
        two.close()


async def test_an_older_copy_begins_a_new_epoch(machine: Machine, tmp_path: Path) -> None:
    """A process that lived through it knows; no number of the old epoch is given again."""
    path = tmp_path / "events.db"
    stale: list[str | None] = []
    async with open_log(machine.log(), stale=stale.append) as log:
        await log.watch(["news"])
        for _ in range(5):
            await append(log)
        backup(path, tmp_path / "copy.db")
        given = {await append(log) for _ in range(5)}
        old = max(given)
        backup(tmp_path / "copy.db", path)
        position = await append(log)
        assert position[0] > old[0]
        assert position[1] == 6
        _, known, records = await log.read("news", old, 10, mine=True)
        assert known
        assert [(one.epoch, one.number) for one in records] == [position]
        assert position not in given


async def test_a_reader_that_is_ahead_of_an_older_copy_begins_a_new_epoch(
    machine: Machine, tmp_path: Path
) -> None:
    """Also of a topic that was made after the copy, whose name would begin anew."""
    path = tmp_path / "events.db"
    async with open_log(machine.log()) as log:
        await append(log, "old")
        backup(path, tmp_path / "copy.db")
        mine = {topic: await append(log, topic) for topic in ("old", "new")}
    backup(tmp_path / "copy.db", path)
    async with open_log(machine.log()) as log:
        for topic, position in mine.items():
            await log.read(topic, position, 10, mine=True)
        for topic, position in mine.items():
            assert (await append(log, topic))[0] > position[0]


@pytest.mark.parametrize("jump", [1e7, -1e7, -1.8e9])
async def test_a_clock_that_is_set_changes_no_age(jump: float, machine: Machine) -> None:
    """Events neither expire at once nor live on, whatever the date becomes."""
    keep = Replay(seconds=100)
    async with open_log(machine.log()) as log:
        await append(log, keep=keep)
        machine.wall += jump
        machine.later(99)
        await append(log, keep=keep)
        assert (await head(log)).first == 1
        machine.later(2)
        assert (await head(log)).first == 2
        machine.later(99)
        assert (await head(log)) == Head((await head(log)).epochs, 2, 3)


@pytest.mark.parametrize("jump", [-1e7, -1.8e9])
async def test_a_date_that_is_behind_after_a_boot_makes_nothing_younger(
    jump: float, machine: Machine
) -> None:
    """The log's time goes on from its newest event, and epochs still sort."""
    keep = Replay(seconds=100)
    async with open_log(machine.log("NORMAL")) as log:
        first, _ = await append(log, keep=keep)
    machine.restart()
    machine.wall += jump
    async with open_log(machine.log("NORMAL")) as log:
        assert (await head(log)).first == 1
        second, number = await append(log, keep=keep)
        assert (second > first, number) == (True, 2)
        machine.later(101)
        assert (await head(log)).first == 3


@pytest.fixture
def sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the writer look for what is over its time every 20 ms."""
    monkeypatch.setattr(sqlite_writer, "_SWEEP_SECONDS", 0.02)


Aeventually = Callable[..., object]


@pytest.mark.usefixtures("sweeping")
async def test_what_has_expired_is_deleted(machine: Machine, aeventually: Aeventually) -> None:
    """Not read again is not enough: the rows go, of keys, too, and the head stays."""
    keep = Replay(seconds=100)
    async with open_log(machine.log()) as log:
        entry = LogEntry(b"x", idempotency_key="k", idempotency_seconds=50)
        await log.append("news", [entry, LogEntry(b"y")], keep=keep, token="t")
        await log.append("kept", [LogEntry(b"z")], keep=Replay(), token="t")
        machine.later(60)
        await aeventually(lambda: not machine.tables("select * from key"), "no key")  # type: ignore[misc]
        assert len(machine.tables("select * from event")) == 3
        machine.later(50)
        await aeventually(  # type: ignore[misc]
            lambda: len(machine.tables("select * from event")) == 1, "one event is left"
        )
        found = await head(log)
        assert (found.number, found.first) == (2, 3)


@pytest.mark.usefixtures("sweeping")
async def test_what_is_over_its_bounds_is_deleted(
    machine: Machine, aeventually: Aeventually
) -> None:
    """Events that no longer can be read stay for five seconds, for other processes' tails."""
    async with open_log(machine.log()) as log:
        for _ in range(100):
            await append(log, keep=Replay(items=0))
        assert len(machine.tables("select * from event")) == 100
        machine.later(70)
        await aeventually(lambda: not machine.tables("select * from event"), "all gone")  # type: ignore[misc]
        assert (await append(log, keep=Replay(items=0)))[1] == 101


@pytest.mark.usefixtures("sweeping")
async def test_what_is_a_little_over_its_bound_is_deleted_a_minute_later(
    machine: Machine, aeventually: Aeventually
) -> None:
    """An append does not pay for it; nobody reads it, and it takes no room for long."""
    async with open_log(machine.log()) as log:
        for _ in range(70):
            await append(log, keep=Replay(items=50))
        assert (await head(log)).first == 21
        machine.later(59)
        await append(log, "other")  # a commit, behind which the writer looks for what is due
        assert machine.tables("select floor from topic where name = 'news'") == [(1,)]
        machine.later(2)
        await aeventually(  # type: ignore[misc]
            lambda: machine.tables("select floor from topic where name = 'news'") == [(21,)],
            "the floor",
        )
        machine.later(5)
        await aeventually(  # type: ignore[misc]
            lambda: len(machine.tables("select 1 from event where topic = 1")) == 50, "50 are left"
        )


async def test_a_flood_that_nobody_keeps_does_not_fill_the_disk(machine: Machine) -> None:
    """At most 1,024 events, or 1 MiB, of a topic wait for other processes to see them."""
    async with open_log(machine.log()) as log:
        for number in range(40):
            entries = [LogEntry(bytes(100))] * 100
            await log.append("many", entries, keep=Replay(items=0), token=f"{number}")
            large = [LogEntry(bytes(100_000))]
            await log.append("large", large, keep=Replay(bytes=1000), token=f"{number}")
        counts = dict(
            machine.tables(
                "select name, count(*) from event join topic on topic.id = topic group by name"
            )
        )
        assert 1024 <= counts["many"] <= 1300  # type: ignore[operator]
        assert 9 <= counts["large"] <= 12  # type: ignore[operator]


@pytest.mark.usefixtures("sweeping")
async def test_a_topic_is_forgotten_a_week_after_its_last_event(
    machine: Machine, aeventually: Aeventually
) -> None:
    """Until then its head is known. Then it is as one that never was, in another epoch."""
    keep = Replay(seconds=100)
    async with open_log(machine.log()) as log:
        waiting = await head(log)
        await append(log, keep=keep)
        epoch, _ = await append(log, keep=keep)
        machine.later(6.9 * 86400)
        await aeventually(lambda: not machine.tables("select * from event"), "expired")  # type: ignore[misc]
        assert (await log.read("news", (epoch, 2), 10))[1] is True
        machine.later(0.2 * 86400)
        await aeventually(lambda: not machine.tables("select * from topic"), "forgotten")  # type: ignore[misc]
        assert machine.tables("select * from token") == []
        assert (await head(log)).number == 0
        assert (await log.read("news", (epoch, 2), 10))[1] is False
        assert (await log.read("news", (waiting.epochs[0][0], 0), 10))[1] is False
        again, number = await append(log, keep=keep)
        assert number == 1
        assert again > epoch


@pytest.mark.usefixtures("sweeping")
async def test_what_a_later_append_no_longer_keeps_is_deleted_at_once(
    machine: Machine, aeventually: Aeventually
) -> None:
    """Events that the new bound makes too old go with the next sweep, and not when it is due."""
    async with open_log(machine.log()) as log:
        await append(log)
        machine.later(200)
        await append(log, keep=Replay(seconds=100))
        await aeventually(  # type: ignore[misc]
            lambda: machine.tables("select number from event") == [(2,)], "one is left"
        )


@pytest.mark.usefixtures("sweeping")
async def test_a_week_counts_from_the_last_append(
    machine: Machine, aeventually: Aeventually
) -> None:
    """A topic that was made long ago is remembered for as long as one that is new."""
    keep = Replay(seconds=100)
    async with open_log(machine.log()) as log:
        await append(log, keep=keep)
        machine.later(6 * 86400)
        await append(log, keep=keep)
        machine.later(6 * 86400)
        await aeventually(lambda: not machine.tables("select * from event"), "expired")  # type: ignore[misc]
        assert (await append(log, keep=keep))[1] == 3


@pytest.mark.usefixtures("sweeping")
async def test_a_watched_topic_that_is_forgotten_is_heard_again(
    machine: Machine, aeventually: Aeventually
) -> None:
    """Its name is watched, not its row."""
    heard: list[int] = []
    stale: list[str | None] = []
    async with open_log(
        machine.log(), hint=lambda _, before, records: heard.append(before), stale=stale.append
    ) as log:
        await log.watch(["news"])
        await append(log, keep=Replay(items=0))
        await aeventually(lambda: heard, "a hint")  # type: ignore[misc]
        machine.later(8 * 86400)
        await aeventually(lambda: "news" in stale, "it is stale")  # type: ignore[misc]
        heard.clear()
        await append(log)
        await aeventually(lambda: heard == [0], "a hint again")  # type: ignore[misc]


def test_the_machine_has_a_boot() -> None:
    """Its id is the same at each call, and its seconds never go back."""
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36
    before = clock.since_boot()
    assert clock.since_boot() >= before > 0


def test_a_machine_without_a_boot_id_has_a_new_one_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So commits that were not flushed are never taken for safe."""
    monkeypatch.setattr("flowstream.logs._log_clock._BOOT_ID", tmp_path / "none")
    assert boot_id() != boot_id()


async def test_a_tail_that_slept_says_that_all_may_be_stale(
    machine: Machine, aeventually: Aeventually
) -> None:
    """Events that were deleted before it saw them leave a hole, and a hole is said."""
    stale: list[str | None] = []
    heard: list[int] = []
    async with open_log(
        machine.log(), hint=lambda _, before, records: heard.append(before), stale=stale.append
    ) as slow:
        tail = slow._open.tail  # type: ignore[attr-defined]
        await slow.watch(["news", "quiet"])
        awake = tail._look
        tail._look = lambda: None  # it is asleep
        async with open_log(machine.log()) as log:
            for _ in range(3):
                await append(log)
            machine.later(10)
            assert await log.trim("news", Replay(items=1)) == 2
            assert len(machine.tables("select * from event")) == 1
        tail._look = awake
        await aeventually(lambda: heard == [2], "the event that is left")  # type: ignore[misc]
        assert stale == [None]


async def test_an_age_counts_on_the_log_s_clock(machine: Machine) -> None:
    """A date that is set changes no age; a boot counts by the date, and never makes it negative."""
    async with open_log(machine.log()) as log:
        epoch, _ = await append(log)

        async def age() -> float:
            _, _, (record,) = await log.read("news", (epoch, 0), 10)
            return record.age

        machine.later(30)
        assert await age() == pytest.approx(30)
        machine.wall -= 86400
        assert await age() == pytest.approx(30)
    machine.restart()
    async with open_log(machine.log()) as log:
        assert await age() == pytest.approx(0)  # the date says less, and time never goes back
        machine.wall += 1
        machine.later(7)
        assert await age() == pytest.approx(7)


async def test_what_is_committed_while_a_watch_is_taken_up_is_heard(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, aeventually: Aeventually
) -> None:
    """The tail looks for new watches behind its snapshot: none is for an event that it drops."""
    heard: list[int] = []
    last_pos = sqlite_tail.last_pos
    async with open_log(machine.log()) as other:
        async with open_log(
            machine.log(), hint=lambda _, before, records: heard.append(before)
        ) as log:
            tail = log._open.tail  # type: ignore[attr-defined]

            def late(db: sqlite3.Connection) -> int:
                if db is tail._db:  # and not the other log's
                    monkeypatch.setattr(sqlite_tail, "last_pos", last_pos)
                    tail.watch(["news"])
                    trio.from_thread.run(append, other)
                return last_pos(db)

            monkeypatch.setattr(sqlite_tail, "last_pos", late)
            await aeventually(lambda: heard, "the event")  # type: ignore[misc]
        assert heard == [0]


@pytest.mark.parametrize("call", ["heads", "latest", "read"])
async def test_a_topic_of_an_earlier_life_is_never_shown(call, tmp_path):
    """Whatever asks for a topic first in a new life of the log sees the topic's new epoch."""
    async with open_log(SQLiteLog(tmp_path / "events.db")) as log:
        [old] = await log.append("news", [LogEntry(b"x", key="k")], keep=Replay(), token="t")
        await log.new_epoch()
        if call == "heads":
            head = (await log.heads(["news"]))["news"]
        elif call == "latest":
            head = (await log.latest("news")).head
        else:
            head, _, _ = await log.read("news", ("elsewhere", 7), 1)
        assert [epoch for epoch, _ in head.epochs[:-1]] == [old.epoch]
        assert head.epochs[-1][1] == 2
