"""Time and chance come from one place, and a simulation of them gives the same bytes again."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from flowstream import DropOldest, Event, Retry, Topic, ndjson, sse
from flowstream._clock import chance, clock
from flowstream.encoders import AGUI, OpenAIChunks, UIMessages
from flowstream.quart import Flowstream
from flowstream.testing import collect, open_stream, simulated

PACKAGE = Path(__file__).parents[2] / "flowstream"
AT_THE_MACHINE = {"server", "demo"}
"""Folders that deal with processes and real machines, and read their clocks."""

MODULES = {"time", "random", "secrets"}
NAMES = {
    "os": {"urandom", "getrandom", "times"},
    "trio": {"current_time"},
    "trio.lowlevel": {"current_clock"},
    "uuid": {"uuid1", "uuid4"},
    "datetime": {"now", "utcnow", "today"},
}


def direct_uses(source: str) -> Iterator[str]:
    """Yield what in `source` asks a clock or chance itself."""
    owners = {name for names in NAMES.values() for name in names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in MODULES:
                    yield f"line {node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                if node.module in MODULES or alias.name in NAMES.get(node.module or "", ()):
                    yield f"line {node.lineno}: from {node.module} import {alias.name}"
        elif isinstance(node, ast.Attribute) and node.attr in owners:
            owner = ast.unparse(node.value)
            if owner not in ("clock", "chance", "_clock.clock", "_clock.chance"):
                yield f"line {node.lineno}: {owner}.{node.attr}"


def outside_the_machine() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in AT_THE_MACHINE | {"_clock.py"}
    ]


@pytest.mark.parametrize(
    "path", outside_the_machine(), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_time_and_chance_come_from_one_place(path):
    """No module but `_clock` reads a clock or draws a number, the server and the demo aside."""
    assert list(direct_uses(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import random as dice",
        "from time import perf_counter",
        "def f():\n    from secrets import token_hex",
        "import os; os.urandom(4)",
        "from os import urandom",
        "import trio; later = trio.current_time",
        "from trio import current_time",
        "from datetime import datetime as d; d.now()",
        "import datetime; datetime.datetime.now(datetime.UTC)",
        "import datetime; datetime.date.today()",
        "import uuid; uuid.uuid4()",
        "from uuid import uuid4",
        "import trio; trio.lowlevel.current_clock()",
    ],
)
def test_a_direct_use_is_seen(line):
    """The check finds a clock or a die however it is asked for."""
    assert list(direct_uses(line))


def test_the_one_place_is_no_direct_use():
    """What modules are to write is not found."""
    line = "from flowstream._clock import chance, clock\nclock.current_time(); chance.uuid4()"
    assert list(direct_uses(line)) == []


# -- a simulation ------------------------------------------------------------------------------


class Flaky:
    """A feed that fails after each of its events, and notes when it was begun."""

    def __init__(self) -> None:
        self.began: list[float] = []

    async def events(self):
        self.began.append(trio.current_time())
        yield Event({"try": len(self.began)}, key="try")
        raise ConnectionError("gone")


async def pipeline() -> list[object]:
    """Run a topic with a feed that fails, clients that race, and streams of their own."""
    flaky, seen = Flaky(), []
    topic = Topic("jobs")

    async def read(number: int) -> None:
        response = sse(topic, heartbeat=3, buffer=2, policy=DropOldest(), retry=1000)
        async with open_stream(response, window=60 * number) as client:
            await trio.sleep(20)
            client.resume()
            await trio.sleep(20)
            response.stop()
            await client.wait_finished()
            seen.append((number, trio.current_time(), client.received))

    async def produce(out):
        for number in range(200):  # more than a burst: the order of tasks plays a part
            await out.send({"number": number})
            seen.append(number)

    async with Flowstream(), trio.open_nursery() as nursery:
        topic.publish_from(flaky.events, retry=Retry(first=1, longest=8))
        for number in range(1, 4):
            nursery.start_soon(read, number)
        for _ in range(3):
            nursery.start_soon(collect, sse(produce, buffer=8))
    for encoder in (UIMessages(), AGUI(), OpenAIChunks("m")):
        seen.append((await collect(ndjson([1]))).body)
        stream = encoder.start()
        seen.append(stream.encode("text"))
        seen.append(stream.opening(None))
    return [*seen, *flaky.began, clock.wall_time()]


def simulate(seed: int) -> list[object]:
    with simulated(seed):
        return trio.run(pipeline, clock=MockClock(autojump_threshold=0))


def test_the_same_seed_gives_the_same_bytes(caplog):
    """Ids, jitter, dates, times and the order of tasks are the same again, to the byte."""
    first = simulate(7)
    bodies = [part[2] for part in first if isinstance(part, tuple)]
    assert len(bodies) == 3
    assert any(b"event: gap" in body for body in bodies)
    assert any(b"\n:" in body for body in bodies), "heartbeats"
    assert [simulate(7), simulate(7)] == [first, first]


def test_another_seed_gives_other_bytes(caplog):
    """The seed is what all of it follows from."""
    assert simulate(7) != simulate(8)


PROGRAM = """
import hashlib, logging, sys
sys.path.insert(0, {folder!r})
logging.disable()
from test_simulation import simulate
print(hashlib.sha256(repr(simulate(11)).encode()).hexdigest())
"""


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    """Nothing depends on addresses in memory, nor on Python's seed for hashes."""
    digests = set()
    for hash_seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(folder=str(Path(__file__).parent))],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_a_simulation_ends():
    """What it has put into place is taken away, also after an error, and Trio goes on."""
    state = random.getstate()
    before = [clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes]
    with simulated(1):
        assert clock.perf_counter() == clock.perf_counter()
        assert clock.wall_time() == 946684800
    with pytest.raises(KeyError), simulated(1):
        raise KeyError
    assert before == [clock.perf_counter, clock.wall_time, chance.uniform, chance.token_bytes]
    assert random.getstate() == state, "the app's own dice are left alone"
    assert chance.token_hex(4) != chance.token_hex(4)


def test_a_simulation_in_another():
    """The inner one has its own seed, and the outer one goes on where it was."""
    with simulated(1):
        expected = [chance.token_hex(4), chance.token_hex(4)]
    with simulated(1):
        first = chance.token_hex(4)
        with simulated(2):
            assert chance.token_hex(4) not in expected
        assert [first, chance.token_hex(4)] == expected


@pytest.mark.parametrize("seed", [None, "7", 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    """Anything else is refused at once, with what it is."""
    with pytest.raises(TypeError, match="seed must be a whole number"), simulated(seed):
        pass


def test_a_trio_that_cannot_be_told(monkeypatch):
    """Another version of Trio is named, and nothing is left behind."""
    monkeypatch.delattr(trio._core._run, "_r")
    before = clock.perf_counter
    with pytest.raises(RuntimeError, match="cannot be told how"), simulated(1):
        pass
    assert clock.perf_counter is before


def test_an_unknown_clock_is_an_error():
    """A slip of the pen is not taken for a clock."""
    with pytest.raises(AttributeError, match="no clock 'curent_time'"):
        clock.curent_time()
