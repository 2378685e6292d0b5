"""The registry: which streams run, how the earlier ones ended, and which instruments are told.

Each Trio run has one, made with its first stream or instrument. It ends with the run, so two
servers in two threads have one each, and nothing outlives them. A stream enters when it is made for
a request, and leaves with its report, whether an ASGI server, Quart, Starlette or the test kit
serves it.

Entering and leaving cost a few dictionary entries. An instrument is called only if there is one.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass

import trio

from flowstream._clock import clock
from flowstream._closing import StreamReport
from flowstream._live_stream import LiveStream, Measured, StreamStatistics
from flowstream.abc import Instrument
from flowstream.tasks._failure import passes

logger = logging.getLogger("flowstream")


@dataclass(frozen=True, slots=True)
class StreamsStatistics:
    """The streams of a Trio run at one moment."""

    open: int
    """Streams that run now."""
    closed: Mapping[str, int]
    """Streams that have ended since the run began, by close reason."""


class Tally:
    """Counts the streams of one app.

    Attributes:
        open: how many run now.
        closed: how many have ended, by close reason.
    """

    def __init__(self) -> None:
        self.open = 0
        self.closed: Counter[str] = Counter()


class Registry:
    """The streams of one Trio run."""

    def __init__(self) -> None:
        self._live: dict[LiveStream, Tally | None] = {}
        self._instruments: tuple[Instrument, ...] = ()
        self.closed: Counter[str] = Counter()

    @property
    def live(self) -> tuple[LiveStream, ...]:
        """The streams that run now, the oldest first."""
        return tuple(self._live)

    def enter(
        self, stream: Measured, path: str, context: Context, tally: Tally | None
    ) -> LiveStream:
        """Enter a stream that was made for a request; return the view of it.

        Args:
            stream: the stream, which the view asks for its statistics.
            path: the request's, on one line.
            context: instruments are called in this context.
            tally: the app's, which counts the stream, too; or None.
        """
        live = LiveStream(stream, path, clock.wall_time())
        self._live[live] = tally
        if tally is not None:
            tally.open += 1
        if self._instruments:
            try:
                context.run(self._tell, "stream_started", live)
            except BaseException:  # the program ends, and this stream never begins
                self._remove(live)
                raise
        return live

    def leave(self, live: LiveStream, final: StreamStatistics, report: StreamReport) -> None:
        """Remove a stream that has ended. Call this once, in the stream's context."""
        tally, reason = self._remove(live), report.reason.value
        live._end(final)  # from now on the view has the last statistics
        self.closed[reason] += 1
        if tally is not None:
            tally.closed[reason] += 1
        if self._instruments:
            self._tell("stream_ended", live, report)

    def add(self, instrument: Instrument) -> None:
        """Tell `instrument` of streams from now on. Adding it again changes nothing."""
        if not any(known is instrument for known in self._instruments):
            self._instruments = (*self._instruments, instrument)

    def remove(self, instrument: Instrument) -> None:
        """Tell `instrument` nothing any more."""
        self._instruments = tuple(one for one in self._instruments if one is not instrument)

    def _remove(self, live: LiveStream) -> Tally | None:
        tally = self._live.pop(live)
        if tally is not None:
            tally.open -= 1
        return tally

    def _tell(self, method: str, *what: object) -> None:
        for instrument in self._instruments:
            try:
                getattr(instrument, method)(*what)
            except BaseException as error:  # noqa: ASYNC103  # see `passes`
                if passes(error):
                    raise
                self.remove(instrument)
                name = type(instrument).__qualname__
                logger.exception("%s.%s failed: it is told nothing more", name, method)


_of_this_run: trio.lowlevel.RunVar[Registry | None] = trio.lowlevel.RunVar(
    "flowstream streams", None
)


def registry_of_run() -> Registry:
    """Return the registry of this Trio run."""
    registry = _of_this_run.get()
    if registry is None:
        registry = Registry()
        _of_this_run.set(registry)
    return registry


def live_streams() -> tuple[LiveStream, ...]:
    """Return the streams that run now in this Trio run, the oldest first.

    Each is a read-only view, with `path`, `since` and `statistics()`.

    Raises:
        RuntimeError: it is called outside a Trio run, in a worker thread for instance.
    """
    return _registry_for("live_streams").live


def streams_statistics() -> StreamsStatistics:
    """Return how many streams run in this Trio run, and how the earlier ones ended.

    Raises:
        RuntimeError: it is called outside a Trio run, in a worker thread for instance.
    """
    registry = _registry_for("streams_statistics")
    return StreamsStatistics(len(registry.live), dict(registry.closed))


def add_instrument(instrument: Instrument) -> None:
    """Tell `instrument` of each stream that starts or ends, until this Trio run ends.

    Call it where the app starts, so that no stream is missed: in an ``async def`` function of
    Quart's ``before_serving``, or in a lifespan. Quart-Trio runs a plain function in a worker
    thread, where this raises. The instrument is also told of the end of streams that run already.
    To add it again changes nothing. If the instrument raises, the error is logged, the instrument
    is told nothing more, and the stream goes on unharmed.

    Raises:
        TypeError: `instrument` is no instance of `flowstream.abc.Instrument`, or one of its methods
            is ``async``: the event loop calls them, and does not wait.
        RuntimeError: it is called outside a Trio run, for instance while a module is imported.
    """
    _check(instrument)
    _registry_for("add_instrument").add(instrument)


def remove_instrument(instrument: Instrument) -> None:
    """Tell `instrument` nothing any more. Does nothing if it was not added.

    Raises:
        RuntimeError: it is called outside a Trio run.
    """
    _registry_for("remove_instrument").remove(instrument)


_METHODS = tuple(name for name in vars(Instrument) if name.startswith("stream_"))


def _check(instrument: object) -> None:
    if isinstance(instrument, type) and issubclass(instrument, Instrument):
        name = instrument.__name__
        raise TypeError(f"expected an instance, not the class {name}: add_instrument({name}())")
    if not isinstance(instrument, Instrument):
        kind = type(instrument).__name__
        raise TypeError(f"expected a flowstream.abc.Instrument, not a {kind}: derive it from that")
    for name in _METHODS:
        if inspect.iscoroutinefunction(getattr(instrument, name)):
            raise TypeError(
                f"{type(instrument).__name__}.{name} must be a plain function, without async: to "
                "wait for something, send what you were told into a memory channel with "
                "send_nowait(), and wait in a task of your own"
            )


def _registry_for(function: str) -> Registry:
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{function}() is about the streams of a Trio run, and none runs in this thread. Call "
            "it in an async def view, or where the app starts: in an async def function of Quart's "
            "before_serving, or in a lifespan. Quart-Trio runs a plain def in a worker thread; "
            f"there, write trio.from_thread.run_sync({function}, ...)"
        )
    return registry_of_run()
