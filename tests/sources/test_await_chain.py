"""Where a coroutine is suspended is read from the interpreter; where it can't be, that is said."""

from __future__ import annotations

import logging
import subprocess
import sys
import types

import pytest
import trio

from flowstream.sources import _await_chain, as_source
from flowstream.sources._await_chain import is_in_checkpoint
from flowstream.sources._shielding import run_cancelled_once


async def plain():
    await trio.lowlevel.checkpoint()


async def generate():
    yield await trio.lowlevel.checkpoint()


async def iterate():
    async for _ in generate():
        pass


async def sent():
    await generate().asend(None)


async def closed():
    async def closing():
        try:
            yield
        finally:
            await trio.lowlevel.checkpoint()

    steps = closing()
    await anext(steps)
    await steps.aclose()


async def next_or_none():
    await anext(generate(), None)


class Delegates:
    def __await__(self):
        return plain().__await__()


class Yields:
    def __await__(self):
        yield from plain().__await__()


class ByItself:
    """An iterator written by hand, which nobody can look into."""

    def __await__(self):
        self.inner = plain().__await__()
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.inner)

    def send(self, value):
        return self.inner.send(value)

    def throw(self, error):
        return self.inner.throw(error)


async def awaits(awaitable):
    await awaitable()


@types.coroutine
def decorated():
    yield from plain()


WAYS = {
    "coroutine": plain,
    "async for": iterate,
    "asend": sent,
    "aclose": closed,
    "anext with a default": next_or_none,
    "__await__ that delegates": lambda: awaits(Delegates),
    "__await__ that yields from": lambda: awaits(Yields),
    "generator-based coroutine": lambda: awaits(decorated),
}


def suspended(coroutine):
    coroutine.send(None)
    try:
        return is_in_checkpoint(coroutine)
    finally:
        coroutine.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_is_seen_however_it_is_awaited(way):
    """Through coroutines, steps of async generators, and objects with an `__await__`."""
    assert suspended(WAYS[way]()) is True


def test_what_is_no_checkpoint_is_none():
    """Waiting for long, or shielded, as after a send that succeeded, is another thing."""

    async def wait():
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    assert suspended(wait()) is False
    assert suspended(awaits(trio.lowlevel.cancel_shielded_checkpoint)) is False


def test_what_awaits_in_a_way_of_its_own_can_not_be_told():
    """An iterator written by hand is not guessed at."""
    assert suspended(awaits(ByItself)) is None


async def test_a_checkpoint_that_can_not_be_seen_is_cancelled_once_too(autojump_clock):
    """A flood of checkpoints behind a hand-written iterator ends, and its cleanup runs."""
    log = []

    async def produce():
        try:
            while True:
                await ByItself()
        finally:
            await trio.sleep(1)
            log.append("cleaned up")

    async def run(scope):
        with scope:
            assert not await run_cancelled_once(produce(), scope, 5)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)
        nursery.start_soon(run, scope)
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        scope.cancel()
    assert log == ["cleaned up"]
    assert trio.current_time() == 1


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (_await_chain, "_ATTRIBUTES", ("xx_await",)),
        (_await_chain.gc, "get_referents", lambda *_: []),
        (trio.lowlevel, "checkpoint", plain),
        (trio.lowlevel, "checkpoint", object()),
    ],
    ids=["other attributes", "no garbage collector", "another checkpoint", "no function"],
)
def test_a_change_of_the_internals_is_found_out(monkeypatch, owner, name, value):
    """The trial at import sees it, raises nothing, and leaves no coroutine behind."""
    assert _await_chain._try()
    monkeypatch.setattr(owner, name, value)
    assert not _await_chain._try()


async def test_that_it_can_not_be_read_is_logged_once(outlet, monkeypatch, caplog):
    """One warning, when the first producer runs; it names both versions."""
    monkeypatch.setattr(_await_chain, "readable", False)
    monkeypatch.setattr(_await_chain, "_warned", False)
    for _ in range(3):
        with trio.CancelScope(shield=True) as scope:
            await run_cancelled_once(as_source([1]).run(outlet), scope, 5)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    version = ".".join(str(part) for part in sys.version_info[:3])
    assert f"Python {version} with Trio {trio.__version__}" in record.getMessage()


async def test_where_it_is_read_nothing_is_logged(outlet, caplog):
    """Nobody hears of what works."""
    with trio.CancelScope(shield=True) as scope:
        await run_cancelled_once(as_source([1]).run(outlet), scope, 5)
    assert not caplog.records


async def test_not_read_a_timeout_behind_an_own_shield_ends_at_the_deadline(
    monkeypatch, autojump_clock
):
    """The one case that is told late: an await in a scope that was over, behind an own shield."""
    monkeypatch.setattr(_await_chain, "readable", False)
    monkeypatch.setattr(_await_chain, "_warned", True)
    log = []

    async def produce(scope):
        scope.cancel()
        with trio.CancelScope(shield=True) as own:
            own.cancel()
            await trio.sleep(1)
        try:
            await trio.sleep(100)
        finally:
            log.append(trio.current_time())
            await trio.sleep(1)

    with trio.CancelScope(shield=True) as scope:
        assert await run_cancelled_once(produce(scope), scope, 5)
    assert log == [5]
    assert trio.current_time() == 5


def test_it_may_be_imported_inside_trio() -> None:
    """Trying itself leaves nothing behind for Trio to finish, nor a word on stderr."""
    program = (
        "import gc, trio\n"
        "async def main():\n"
        "    import flowstream.sources._await_chain as chain\n"
        "    gc.collect()\n"
        "    await trio.lowlevel.checkpoint()\n"
        "    print(chain.readable)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
