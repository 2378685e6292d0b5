"""The supervisor: runs several worker processes on one set of listening sockets.

It opens the sockets and passes them to the workers that it starts. Each worker is a fresh Python,
so only workers import the app, and a new worker gets new code. The supervisor replaces a worker
that dies. It kills and replaces a worker whose event loop is blocked for too long (`_watchdog`). To
stop is to cancel: every worker is told to end, waited for, and killed at its deadline.

============  =================================================================
signal        what it does
============  =================================================================
SIGTERM, INT  the workers shut down in stages; a second one kills them at once
SIGHUP        the workers are replaced, one at a time, each when its successor is ready
============  =================================================================

All workers accept from one queue in the kernel, which the supervisor keeps open: if a worker ends
before it accepts a connection, another one accepts it. With ``SO_REUSEPORT``, as in Hypercorn, each
worker would have its own queue, and connections in it would be reset.

Turned down: `multiprocessing`, as in Hypercorn. Its processes inherit a resource tracker, need a
parent that can be imported, and poll a semaphore to learn of a shutdown.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import AsyncIterator

import trio

from flowstream.server._hypercorn import Sockets, repr_socket_addr
from flowstream.server._listening import open_sockets
from flowstream.server._settings import ServerConfig, checked
from flowstream.server.process._assignment import CODE_CHANGED, Assignment, descriptors, settings_of
from flowstream.server.process._stopping import shutdown_bound
from flowstream.server.process._worker_process import WorkerProcess

# A worker that dies within _YOUNG seconds is replaced after a pause, which doubles each time.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_YOUNG = 30.0


class WorkersError(Exception):
    """No worker could be started, or some had to be killed; the message says which."""


class _Seat:
    """One worker's place: its current worker, which may be replaced."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker


class Supervisor:
    """Runs an app in worker processes.

    Args:
        app: its name, ``module:app``.
        config: the configuration of each worker; ``workers`` is their number, and
            ``use_reloader`` replaces them when their code changes.

    Raises:
        TypeError, ValueError: a setting has the wrong type or value, or can't be passed to a
            worker.
    """

    def __init__(self, app: str, config: ServerConfig) -> None:
        self._app = app
        self._config = checked(config)
        if config.workers < 1:
            raise ValueError(f"workers must be 1 or more, not {config.workers!r}")
        if config.workers > 1 and config.quic_bind:
            raise ValueError(
                "HTTP/3 needs workers = 1: the kernel would hand the packets of one connection "
                "to any worker"
            )
        settings_of(config)  # refuses settings that can't travel
        self._shutdown_bound = shutdown_bound(config)
        self._workers: set[WorkerProcess] = set()
        self._seats: list[_Seat] = []
        self._replacing = trio.CancelScope()
        self._stop = trio.CancelScope()
        self._killed: list[str] = []
        self._failure: str | None = None

    def open_sockets(self) -> Sockets:
        """Bind and listen where the configuration says.

        Raises:
            OSError, ValueError, OverflowError: the supervisor cannot listen on an address.
        """
        alone = copy.copy(self._config)
        alone.workers = 1  # or Hypercorn sets SO_REUSEPORT
        sockets = open_sockets(alone)
        self._config._quic_addresses = alone._quic_addresses
        return sockets

    async def run(self, sockets: Sockets) -> None:
        """Run workers on `sockets` until SIGTERM or SIGINT; then close the sockets.

        Raises:
            WorkersError: a worker did not get ready at the first start, or did not end in
                time and was killed.
        """
        self._sockets = sockets
        self._settings = settings_of(self._config)
        self._lifeline, held = os.pipe()
        try:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals)
                    with self._stop:
                        async with trio.open_nursery() as self._nursery:
                            await self._start()
                    nursery.cancel_scope.cancel()
        finally:
            os.close(self._lifeline)
            os.close(held)
            _close(self._sockets)
        if self._failure is not None:
            raise WorkersError(self._failure)
        if self._killed:
            raise WorkersError(f"{', '.join(self._killed)} did not end in time: killed")

    # -- signals ---------------------------------------------------------------------------

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                if not self._stop.cancel_called:
                    # A second SIGHUP: something has changed since the first. Begin again.
                    self._replacing.cancel()
                    self._replacing = trio.CancelScope()
                    self._nursery.start_soon(self._replace_all, self._replacing)
            elif self._stop.cancel_called:
                for worker in self._workers:
                    worker.kill()
            else:
                self._stop.cancel()

    # -- workers ---------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start the workers: one first, since a failure in it would be a failure in all."""
        count = self._config.workers
        seats = [_Seat(worker) for worker in (await self._start_some(1))]
        seats += [_Seat(worker) for worker in (await self._start_some(count - 1))]
        self._seats = seats
        for seat in seats:
            self._nursery.start_soon(self._keep, seat)
        for address in _addresses_of(self._sockets):
            await self._config.log.info(f"Running on {address} (CTRL + C to quit)")

    async def _start_some(self, count: int) -> list[WorkerProcess]:
        """Start workers and wait until they are ready; stop everything if one fails to."""
        return [await self._started(worker) for worker in [self._spawn() for _ in range(count)]]

    async def _started(self, worker: WorkerProcess) -> WorkerProcess:
        while not worker.ready.is_set():
            await worker.settled.wait()
            if worker.ready.is_set():
                break
            await worker.over.wait()  # returns at once, unless the worker waits for new code
            if worker.status != CODE_CHANGED:
                self._failure = worker.failure or f"{worker.name} {worker.end} before it was ready"
                self._stop.cancel()
                await trio.sleep_forever()
            worker = self._spawn()
        return worker

    def _spawn(self) -> WorkerProcess:
        worker = WorkerProcess(self._shutdown_bound, self._config.worker_timeout)
        self._nursery.start_soon(self._see_to_its_end, worker)
        return worker

    async def _see_to_its_end(self, worker: WorkerProcess) -> None:
        self._workers.add(worker)
        try:
            await worker.run(self._make_assignment)
        finally:
            self._workers.discard(worker)
            killed = worker.killed
            if killed and self._stop.cancel_called:
                self._killed.append(worker.name)
                killed = False  # `run` raises it
            with trio.move_on_after(1, shield=True):  # the logger may also tell statsd
                if worker.last_words:
                    await self._config.log.error("%s", worker.last_words)
                if killed:  # it had been replaced, or should have replaced another one
                    await self._config.log.error("%s did not end in time: killed", worker.name)

    def _make_assignment(self, report: int) -> Assignment:
        return Assignment(
            app=self._app,
            settings=self._settings,
            sockets=descriptors(self._sockets),
            lifeline=self._lifeline,
            report=report,
            reload=self._config.use_reloader,
        )

    async def _keep(self, seat: _Seat) -> None:
        """Keep a worker in this seat: replace it whenever it ends."""
        pause = _FIRST_PAUSE
        while True:
            worker = seat.worker
            await worker.over.wait()
            if seat.worker is not worker:
                continue  # it has been replaced
            if worker.status == CODE_CHANGED:
                await self._config.log.info("%s: its code has changed", worker.name)
                seat.worker = self._spawn()
                continue
            if worker.age > _YOUNG:
                pause = _FIRST_PAUSE
            # Status 0: somebody asked it to end, or max_requests was reached.
            log = self._config.log.error if worker.status else self._config.log.info
            await log("%s %s: another one starts in %.1f s", worker.name, worker.end, pause)
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            if seat.worker is worker:
                seat.worker = self._spawn()

    async def _replace_all(self, scope: trio.CancelScope) -> None:
        """Replace the workers one at a time, each when its successor is ready."""
        with scope:
            await self._config.log.info("the workers are replaced")
            for seat in self._seats:
                successor = self._spawn()
                try:
                    await successor.settled.wait()
                finally:
                    if not successor.ready.is_set():
                        successor.stop()
                if not successor.ready.is_set():
                    await self._config.log.error(
                        "%s did not get ready, so the workers stay as they are: %s",
                        successor.name,
                        successor.failure or successor.end,
                    )
                    return
                old, seat.worker = seat.worker, successor
                old.stop()
            await self._config.log.info("the workers have been replaced")


def _addresses_of(sockets: Sockets) -> list[str]:
    schemes = {"https": sockets.secure_sockets, "http": sockets.insecure_sockets}
    return [
        f"{scheme}://{repr_socket_addr(sock.family, sock.getsockname())}"
        for scheme, group in schemes.items()
        for sock in group
    ]


def _close(sockets: Sockets) -> None:
    for sock in (*sockets.secure_sockets, *sockets.insecure_sockets, *sockets.quic_sockets):
        sock.close()
