import os
from contextlib import aclosing

import pytest
import trio

from flowstream.demo import system as module
from flowstream.demo.system import cpu_percent, cpu_times, memory, resident_memory, system

MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\nHugePages_Total:  0\n"


@pytest.fixture
def proc(tmp_path):
    """A /proc with known numbers in it."""
    (tmp_path / "stat").write_text("cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "statm").write_text("5000 300 40 1 0 90 0\n")
    return tmp_path


async def test_a_reading_comes_at_once_and_then_each_second(proc, autojump_clock):
    """The feed says what /proc says, without a CPU share until there are two readings."""
    async with aclosing(system(proc=proc)) as feed:
        first = await anext(feed)
        assert trio.current_time() == 0
        assert (first["cpu"], first["memory_used"], first["memory_total"]) == (
            None,
            600 * 1024,
            1000 * 1024,
        )
        (proc / "stat").write_text("cpu  40 0 20 120 20 0 0 0 5 0\n")
        second = await anext(feed)
        assert trio.current_time() == 1
        assert second["cpu"] == 30.0


async def test_the_interval_is_a_parameter(proc, autojump_clock):
    """Readings come as often as they are asked for."""
    async with aclosing(system(0.25, proc=proc)) as feed:
        for _ in range(5):
            await anext(feed)
        assert trio.current_time() == 1


async def test_what_cannot_be_known_is_null(tmp_path, autojump_clock, monkeypatch):
    """A machine without /proc and without a load average gives nulls, not errors."""

    def fail():
        raise OSError

    monkeypatch.setattr(module.os, "getloadavg", fail)
    async with aclosing(system(proc=tmp_path)) as feed:
        await anext(feed)
        reading = await anext(feed)
    assert [reading[name] for name in ("cpu", "memory_used", "memory_total", "load")] == [None] * 4
    assert resident_memory(tmp_path) is None


def test_cpu_percent_stays_within_its_bounds():
    """Ticks that run backwards, as the kernel's sometimes do, give no share below 0."""
    assert cpu_percent((100, 200), (90, 300)) == 0.0
    assert cpu_percent((100, 200), (250, 300)) == 100.0
    assert cpu_percent((100, 200), (100, 200)) is None
    assert cpu_percent(None, (1, 2)) is None


def test_guest_time_is_not_counted_twice(proc):
    """The guest columns of /proc/stat are part of the user column and left out."""
    assert cpu_times(proc) == (30, 100)


def test_resident_memory_is_in_bytes(proc):
    """The pages of statm are multiplied by the size of a page."""
    assert resident_memory(proc) == 300 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux")
def test_this_machine_can_be_read():
    """The real /proc has what is looked for."""
    used, total = memory()
    assert 0 < used < total
    assert cpu_times()[0] <= cpu_times()[1]
    assert resident_memory() > 1_000_000
