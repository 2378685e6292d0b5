"""A worker: ``python -m flowstream.server.process._worker``. Only the supervisor starts it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from flowstream.server._serving import serve
from flowstream.server.log._process_log import ProcessLog
from flowstream.server.process._assignment import CODE_CHANGED, Assignment
from flowstream.server.process._code_watch import CodeWatch
from flowstream.server.process._lifeline import Lifeline
from flowstream.server.process._loading import explain, files_in, keep_what_is_loaded, load_app
from flowstream.server.process._stopping import (
    Deadline,
    StopSignals,
    log_what_holds_on,
    shutdown_bound,
)
from flowstream.server.process._watchdog import BEAT, beat_interval
from flowstream.tasks._failure import first_of

logger = logging.getLogger("flowstream.server")

READY = b"+"
"""What a worker reports when it accepts connections. Anything else says why it never will."""

# When the supervisor is gone: seconds that streams have to say goodbye, and then the app to shut
# down.
_ORPHANS_GRACE = 0.8
_ORPHANS_SHUTDOWN = 0.5

# Seconds before the supervisor kills a worker, at which the worker logs what it waits for.
_WORDS = 0.5

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> int:
    """Run one worker; return its exit status."""
    started = time.time()
    assignment = Assignment.from_json(sys.stdin.buffer.read())
    lifeline = Lifeline(assignment.lifeline)
    os.set_inheritable(assignment.report, False)
    sockets = assignment.open_sockets()
    if assignment.reload:
        # Python uses a .pyc if its source has the same size and was changed in the same second.
        sys.dont_write_bytecode = True
    with ProcessLog(assignment.config()) as log:
        return _load_and_run(assignment, lifeline, sockets, started, log)


def _load_and_run(
    assignment: Assignment, lifeline: Lifeline, sockets: Any, started: float, log: ProcessLog
) -> int:
    try:
        app = load_app(assignment.app)
    except Exception as error:  # noqa: BLE001  # shown
        return _fail(assignment, error, started)
    keep_what_is_loaded()
    log.begin()
    worker = _Worker(app, assignment, lifeline, started)
    try:
        return trio.run(worker.run, sockets)
    except Exception as error:
        if worker.ready:
            raise
        return _fail(assignment, error, started)


class _Worker:
    """One worker at work."""

    def __init__(
        self, app: Any, assignment: Assignment, lifeline: Lifeline, started: float
    ) -> None:
        self._app = app
        self._assignment = assignment
        self._lifeline = lifeline
        self._started = started
        self._config = assignment.config()
        self._status = 0
        self.ready = False

    async def run(self, sockets: Any) -> int:
        """Serve until told to stop; return the exit status."""
        # The supervisor will kill the worker soon after, and can't know what it waits for.
        deadline = Deadline(lambda: shutdown_bound(self._config) - _WORDS, log_what_holds_on)
        token = trio.lowlevel.current_trio_token()
        with StopSignals(_SIGNALS, deadline, final=False) as self._stop:
            self._lifeline.when_cut(lambda: _run_soon(token, self._hurry))
            how: dict[str, Any] = {"sockets": sockets, "shutdown_trigger": self._stop.wait}
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as server:
                    addresses = await server.start(partial(serve, self._app, self._config, **how))
                    if addresses:
                        self.ready = True
                        self._report_that_it_is_ready()
                        nursery.start_soon(self._beat)
                    if addresses and self._assignment.reload:
                        nursery.start_soon(self._watch)
                nursery.cancel_scope.cancel()
        deadline.met()
        return self._status

    def _report_that_it_is_ready(self) -> None:
        os.set_blocking(self._assignment.report, False)  # a supervisor may be stopped
        _write(self._assignment, READY)
        # For the stacks of a worker that crashes, or that the supervisor ends by SIGABRT. Not
        # to standard error, which may be a pipe that nobody reads.
        faulthandler.enable(self._assignment.report)

    async def _beat(self) -> None:
        interval = beat_interval(self._config.worker_timeout)
        while self._config.worker_timeout < math.inf:
            _write(self._assignment, BEAT)
            await trio.sleep(interval)

    async def _watch(self) -> None:
        await CodeWatch(self._started).wait()
        self._status = CODE_CHANGED
        self._stop.tell()

    def _hurry(self) -> None:
        """Shut down in the time of a worker without a supervisor. Shortens a running shutdown."""
        self._config.lame_duck = 0.0
        self._config.graceful_timeout = min(self._config.graceful_timeout, _ORPHANS_GRACE)
        self._config.shutdown_timeout = min(self._config.shutdown_timeout, _ORPHANS_SHUTDOWN)
        self._stop.tell()


def _run_soon(token: trio.lowlevel.TrioToken, function: Any) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(function)


def _write(assignment: Assignment, text: bytes) -> None:
    with contextlib.suppress(BlockingIOError, BrokenPipeError):  # the lifeline tells us
        os.write(assignment.report, text[:4096])


def _fail(assignment: Assignment, error: Exception, started: float) -> int:
    """Say why the app cannot be served; with ``reload``, wait until its code has changed."""
    trace, reason = explain(error, assignment.app)
    if assignment.config().log_format == "json":
        logger.critical("%s", reason, exc_info=first_of(error) if trace else None)
    else:
        with contextlib.suppress(OSError):  # nobody reads it
            sys.stderr.write(trace)
            sys.stderr.flush()
    _write(assignment, reason.encode(errors="replace"))
    os.close(assignment.report)
    if not assignment.reload:
        return 1
    # Watch the directory, too: it changes when a file is added.
    also = [*files_in(error), Path(assignment.app.partition(":")[0]).parent]
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(CodeWatch(started, also).wait)
    return CODE_CHANGED


if __name__ == "__main__":
    sys.exit(main())
