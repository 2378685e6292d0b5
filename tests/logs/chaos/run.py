"""One run of the chaos ledger, and its report."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from . import processes
from .account import Account
from .broker import Broker
from .client import DROPPING, FAST, HABITS, Client
from .disk import Disk
from .faults import BY_NAME
from .plan import TOPICS, Plan, Role
from .processes import Process
from .store import Store, open_store, url_of
from .texts import make_text
from .truth import LedgerError, Life, Place, Truth, name_of

# Seconds after which a run that stands still is a fault. It is a bound, and no measure.
_STANDSTILL = 120.0
# Seconds after a full disk in which the end of a process may still come from it.
_AFTERMATH = 10.0


@dataclass
class Report:
    """What a run was like."""

    plan: Plan
    counts: Counter[str]
    seconds: float
    mounted: bool
    versions: dict[str, int]
    """How many envelopes of each version are in the log at the end."""

    def __str__(self) -> str:
        counts = self.counts
        disk = "" if self.mounted else "; no disk could be mounted, so quotas stood in for it"
        words = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        return f"seed {self.plan.seed}: {words}; {self.seconds:.0f} s{disk}"


class FakeClock:
    """The file that says which time it is for all processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._now = {"wall": 0.0, "booted": 0.0, "boot": "boot"}
        self.set()

    def set(self, **changes: float | str) -> None:
        """Change it for all processes at once."""
        self._now.update(changes)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._now))
        os.replace(new, self.path)


class Seat:
    """A place for a process, which is started again when it ends."""

    def __init__(self, name: str, *, supervised: bool = False, events: int = 0) -> None:
        self.name = name
        self.supervised = supervised
        self.events = events  # that a publisher has still to settle
        self.process: Process | None = None
        self.lives = 0
        self.life = Life()
        self.done = False


class Run:
    """One run.

    Args:
        plan: what it does.
        store: where the log lies.
        folder: for the driver's files.

    Attributes:
        workers, publishers: the seats of its processes.
        truth: what was published.
        clients: all of them.
    """

    def __init__(self, plan: Plan, store: Store, folder: Path) -> None:
        self.plan = plan
        self.store = store
        self.clock = FakeClock(folder / "clock")
        self.truth = Truth(TOPICS, rolls_back=isinstance(store, Broker))
        # One is supervised, for the hand-over.
        self.workers = [
            Seat(f"w{number}", supervised=number == 0) for number in range(plan.workers)
        ]
        share = plan.events // plan.publishers
        self.publishers = [Seat(f"p{number}", events=share) for number in range(plan.publishers)]
        self.clients: list[Client] = []
        self._url = url_of(store, plan)
        self._dice = random.Random(f"{plan.seed} lives")
        self._counts: Counter[str] = Counter()
        self._powered = trio.Event()  # whether processes may start
        self._powered.set()
        self._holds = 0
        self._busy = 0
        self._troubles = 0
        self._troubled_until = 0.0
        self._clean: set[str] = set()
        self._stopping = False
        self._started: list[Process] = []
        self._began = time.monotonic()

    @property
    def disk(self) -> Disk:
        """The disk of a SQLite log."""
        assert isinstance(self.store, Disk)
        return self.store

    @property
    def broker(self) -> Broker:
        """The broker of a log that is in one."""
        assert isinstance(self.store, Broker)
        return self.store

    @property
    def over(self) -> bool:
        """Whether all that should be published is."""
        return all(seat.done for seat in self.publishers)

    def count(self, what: str) -> None:
        """Count something for the report."""
        self._counts[what] += 1
        self._say(what)

    def _say(self, what: str) -> None:
        if self.plan.verbose:
            seconds = time.monotonic() - self._began
            print(f"{seconds:7.2f} {self.truth.settled:7} {what}", flush=True)

    # -- all of it -------------------------------------------------------------------------

    async def run(self) -> Report:
        """Do all of it.

        Raises:
            LedgerError: a promise was broken.
        """
        try:
            async with trio.open_nursery() as nursery:
                await self._begin(nursery)
                async with trio.open_nursery() as publishing:
                    breaks = trio.CancelScope()
                    publishing.start_soon(self._break_things, breaks)
                    async with trio.open_nursery() as keeping:
                        for seat in self.publishers:
                            keeping.start_soon(self._keep, seat)
                    breaks.cancel()
                    watch = trio.CancelScope()
                    nursery.start_soon(self._watch_progress, watch)
                watch.cancel()
                self._say("published")
                await self._finish()
                self._say("all clients have it")
                self._stopping = True
                for seat in self.workers:
                    if seat.process is not None:
                        seat.process.kill()
            versions = await self.hand("versions", "plain")
            await self.note_epochs()
        finally:
            for process in self._started:
                process.close()
        self._verify()
        self._say("verified")
        mounted = isinstance(self.store, Broker) or self.store.mounted
        return Report(self.plan, self._counts, time.monotonic() - self._began, mounted, versions)

    async def _begin(self, nursery: trio.Nursery) -> None:
        heads: dict[str, str] = await self.hand("heads")
        for seat in self.workers:
            nursery.start_soon(self._keep, seat)
        for number in range(self.plan.clients):
            self.clients.append(self._make_client(number, heads))
        with trio.fail_after(_STANDSTILL):
            while len(self._urls()) < len(self.workers):  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.02)
        self._say("workers are there")
        for client in self.clients:
            nursery.start_soon(client.run)

    def _make_client(self, number: int, heads: dict[str, str]) -> Client:
        kind, turn = number % len(HABITS), number // len(HABITS)
        habit, topic = HABITS[kind], TOPICS[(kind + turn) % len(TOPICS)]
        comes_new = number >= self.plan.clients - 4 and number % 2 == 0
        start = None if comes_new else heads[topic]
        account = Account(
            f"{number}",
            self.truth.topics[topic],
            None if start is None else Place.of(start),
            filtered=habit.filtered,
            keeps_up=topic == "plain" and habit in (FAST, DROPPING),
        )
        format = ("sse", "ndjson")[turn % 2]
        client = Client(account, habit, format, self._urls, f"{self.plan.seed} client {number}")
        client.start_behind(start)
        return client

    async def one_ready(self, seats: list[Seat], dice: random.Random) -> Process:
        """Draw a process that serves; **wait** until there is one."""
        while True:
            there = [seat.process for seat in seats if seat.process and seat.process.url]
            if there:
                return dice.choice(there)
            await trio.sleep(0.02)

    def _urls(self) -> list[str]:
        seats = self.workers + self.publishers
        return [seat.process.url for seat in seats if seat.process and seat.process.url]

    async def _break_things(self, scope: trio.CancelScope) -> None:
        """Do each fault when its share of the events is settled."""
        with scope:
            await self._break_all()

    async def _break_all(self) -> None:
        plan = self.plan
        dice = random.Random(f"{plan.seed} faults")
        names: list[str] = []
        while len(names) < plan.breaks and plan.faults:
            names += dice.sample(plan.faults, len(plan.faults))
        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names[: plan.breaks]):
                at = plan.events * (0.05 + 0.85 * (number + dice.random()) / plan.breaks)
                await self.truth.until(int(at))
                nursery.start_soon(BY_NAME[name], self, random.Random(f"{plan.seed} {number}"))

    async def _finish(self) -> None:
        """Publish one more event in each topic, and wait until each client has it."""
        text = make_text("last", 0, 0, 0)
        ids: dict[str, str] = await self.hand("last", text)
        name = name_of(text)
        for topic, truth in self.truth.topics.items():
            place = Place.of(ids[topic])
            truth.sent.add(name)
            truth.note(place, name)
            truth.acknowledged[name] = truth.last = place
        for client in self.clients:
            client.calm = True
        with trio.move_on_after(_STANDSTILL):
            for client in self.clients:
                await client.done.wait()
        for client in self.clients:
            if not client.done.is_set():
                raise LedgerError(f"{client.account} does not come to the last event")

    async def _watch_progress(self, scope: trio.CancelScope) -> None:
        """Fail if nothing goes on any more."""
        with scope:
            while True:
                settled = self.truth.settled
                await trio.sleep(_STANDSTILL)
                if self.truth.settled == settled:
                    raise LedgerError(f"nothing was published for {_STANDSTILL} s: {self._logs()}")

    # -- processes -------------------------------------------------------------------------

    async def _keep(self, seat: Seat) -> None:
        """Have a process run in a seat, as often as it ends."""
        publishes = seat in self.publishers
        while not (seat.done or self._stopping):
            await self._powered.wait()
            seat.lives += 1
            before, seat.life = seat.life, Life()
            role = self._role(seat, before.unfinished if publishes else ())
            process = seat.process = (
                processes.publisher(role, lambda line: self._hear(seat, line))
                if publishes
                else processes.worker(role, supervised=seat.supervised)
            )
            self._started.append(process)
            self._say(f"{role.name} starts")
            await process.read()
            self._say(f"{role.name} ended")
            self._counts["tracebacks"] += process.faults
            if process.faults:
                self._say("\n".join(process.log))
            if publishes:
                seat.events -= seat.life.settled
                self._started.remove(process)
                process.close()
            if not (seat.done or self._stopping):
                self._check_end(process)
                await trio.sleep(self._dice.uniform(0.0, 0.3))

    def _role(self, seat: Seat, again: tuple[tuple[str, str], ...]) -> Role:
        plan = self.plan
        lying_log = plan.planted == "acknowledge what was not appended"
        planted = seat.name == ("p0" if lying_log else "w1")
        return Role(
            name=f"{seat.name}-{seat.lives}",
            url=self._url,
            clock=str(self.clock.path),
            seed=str(plan.seed),
            release=self._dice.choice(plan.releases),
            planted=plan.planted if planted else "",
            events=max(seat.events, 0),
            pace=plan.pace / plan.publishers,
            batch=plan.batch,
            until=self._began + plan.seconds,
            again=again,
            home="quart" if seat.supervised else "starlette",
            serves=seat.name == "p1",
        )

    def _hear(self, seat: Seat, line: str) -> None:
        if line == "done":
            seat.done = True
            assert seat.process is not None
            self._clean.add(seat.process.role.name)
        else:
            self.truth.hear(seat.life, line)

    def _check_end(self, process: Process) -> None:
        """Check that a process had a reason to end."""
        if not process.expected and trio.current_time() > self._troubled_until:
            text = "\n".join(process.log)
            raise LedgerError(f"{process.role.name} ended with {process.code}: {text}")

    def kill(self, seat: Seat) -> None:
        """Kill -9 the process in a seat; another one comes."""
        if seat.process is not None:
            self.count("kills")
            seat.process.kill()

    async def power_cut(self, *, wall: float, boot: str) -> None:
        """Kill all processes, and let others come in another boot of the machine."""
        await self.cut_power()
        self.clock.set(wall=wall, boot=boot, booted=time.clock_gettime(time.CLOCK_BOOTTIME) - 5)
        self.restore_power()

    async def cut_power(self) -> None:
        """Kill all processes, and let none come until `restore_power`."""
        await self._hold_back()
        there = [seat.process for seat in self.workers + self.publishers if seat.process]
        for process in there:
            pids = process.children
            process.kill()
            for pid in pids:
                processes.kill_pid(pid)
        for process in there:
            await process.over.wait()

    async def _hold_back(self) -> None:
        """Let no process start, and wait until nobody is `busy`."""
        if not self._holds:
            self._powered = trio.Event()
        self._holds += 1
        while self._busy:  # noqa: ASYNC110  # there is no event
            await trio.sleep(0.01)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Do something that must not happen while processes are held back; **wait** for that."""
        await self._powered.wait()
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def restore_power(self) -> None:
        """Let processes start again, if nothing else holds them back."""
        self._holds -= 1
        if not self._holds:
            self._powered.set()

    @asynccontextmanager
    async def no_new_lives(self) -> AsyncIterator[None]:
        """Let no process start in the meantime, and none be frozen."""
        await self._hold_back()
        try:
            yield
        finally:
            self.restore_power()

    async def until_each_has_published(self) -> None:
        """**Wait** until each publisher that is there has published something from now on."""
        for seat, life, settled in [(one, one.life, one.life.settled) for one in self.publishers]:
            while life is seat.life and life.settled <= settled and not seat.done:
                if seat.process is None or seat.process.over.is_set():
                    break
                await trio.sleep(0.01)

    @asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """Excuse processes that end in the meantime."""
        self._troubles += 1
        self._troubled_until = float("inf")
        try:
            yield
        finally:
            self._troubles -= 1
            if not self._troubles:
                self._troubled_until = trio.current_time() + _AFTERMATH

    async def note_epochs(self) -> None:
        """Note which epochs the log knows."""
        for topic, epochs in (await self.hand("epochs", *TOPICS)).items():
            self.truth.topics[topic].note_epochs([Place(*one) for one in epochs])

    async def hand(self, *arguments: str) -> Any:
        """Do one thing to the log, in a process of its own; return what it printed."""
        lines: list[str] = []
        while True:
            role = Role(
                "hand",
                self._url,
                str(self.clock.path),
                str(self.plan.seed),
                batch=self.plan.batch,
            )
            async with self.busy():
                process = processes.hand(role, arguments, lines.append)
                self._started.append(process)
                await process.read()
            if process.code == 0:
                return json.loads("".join(lines))
            self._check_end(process)
            await trio.sleep(0.1)

    def _logs(self) -> str:
        return "\n".join(
            f"{process.role.name}: {[*process.log][-5:]}" for process in self._started[-10:]
        )

    # -- the verdict -----------------------------------------------------------------------

    def _verify(self) -> None:
        counts, truth = self._counts, self.truth
        for topic in truth.topics.values():
            topic.verify()
            topic.prepare()
        if isinstance(self.store, Disk):  # a broker may lose what nobody has seen
            truth.topics["plain"].verify_soon(self._clean)
        for client in self.clients:
            account = client.account
            account.close()
            counts["acknowledged in gaps"] += account.topic.verify_account(account)
            counts.update(account.counts)
        counts.update(truth.counts)


async def run_plan(plan: Plan) -> Report:
    """Run a plan over a log of its own.

    Raises:
        LedgerError: a promise was broken.
    """
    with open_store(plan) as store, TemporaryDirectory(prefix="chaos-") as folder:
        try:
            return await Run(plan, store, Path(folder)).run()
        except BaseExceptionGroup as group:
            # The first broken promise says more than the group of all that ended with it.
            broken, others = group.split(LedgerError)
            if broken is None or (others is not None and others.split(trio.Cancelled)[1]):
                raise
            while isinstance(broken, BaseExceptionGroup):
                broken = broken.exceptions[0]
            raise broken from None
