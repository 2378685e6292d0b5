"""Bells: after a commit a process rings those of all processes that have the log open.

A bell is a Unix datagram socket in a folder beside the file. A ring is one byte without a meaning:
look. If its owner has yet to look after the last ring, the byte is dropped, which is harmless. A
ring that is lost for any other reason is made good by the tail's poll. So nothing here raises once
the bell is there, and nothing here is needed for the log to be right.

The names are random, since processes of two containers may have the same id. The folder is for one
user. A path that is too long for a socket's address (108 bytes) is reached by way of
``/proc/self/fd``. A bell that nobody listens to is deleted when it is also old.

Turned down: inotify on the WAL, which wakes before the commit can be seen.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
from contextlib import suppress

from flowstream._clock import chance, clock

logger = logging.getLogger("flowstream")

# Bytes of a socket's address, without its NUL.
_ADDRESS_BYTES = 107
# Seconds after which a bell that nobody listens to is deleted.
OLD_SECONDS = 60.0
# Rings that are taken at once.
_RINGS = 64


class Bells:
    """The folder of bells, and this process's own bell in it.

    Args:
        path: the log's file.
    """

    def __init__(self, path: str) -> None:
        self._folder = f"{os.path.abspath(path)}-bells"
        self._descriptor = -1
        self._base = self._folder
        self._name = chance.token_hex(8)
        self._names: list[str] = []
        self._stamp = -1
        self._stopped, self._stopper = socket.socketpair()
        self._bell: socket.socket | None = None
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._stopped, select.POLLIN)
        try:
            self._hang()
        except OSError as error:
            logger.warning(
                "%s can't be used (%s): events of other processes are seen up to 250 ms late",
                self._folder,
                error,
            )

    def ring(self, *, own: bool = True) -> None:
        """Ring the bells of all processes, and `own`: this process's own, too."""
        for name in self._listed():
            if name == self._name and not own:
                continue
            try:
                self._sender.sendto(b"!", f"{self._base}/{name}")
            except ConnectionRefusedError:
                self._take_down(name)
            except OSError:
                pass  # full: its owner has yet to look; or gone since

    def wait(self, timeout: float) -> bool:
        """Wait in a thread until the bell rings, or for `timeout` seconds; false: `stop` came."""
        if not self._poll.poll(timeout * 1000):
            return True
        if self._bell is not None:
            with suppress(OSError):
                for _ in range(_RINGS):
                    self._bell.recv(1)
        return not select.select([self._stopped], [], [], 0)[0]

    def stop(self) -> None:
        """Have `wait` return false from now on."""
        with suppress(OSError):
            self._stopper.send(b"!")

    def close(self) -> None:
        """Take the bell down, and close everything."""
        if self._bell is not None:
            self._bell.close()
            with suppress(OSError):
                os.unlink(f"{self._base}/{self._name}")
        for one in (self._sender, self._stopped, self._stopper):
            one.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _hang(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
        self._descriptor = os.open(
            self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        )
        found = os.fstat(self._descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError("it must belong to this process's user, with mode 0700")
        if len(os.fsencode(f"{self._folder}/{self._name}")) > _ADDRESS_BYTES:
            self._base = f"/proc/self/fd/{self._descriptor}"
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bell.setblocking(False)
            bell.bind(f"{self._base}/{self._name}")
        except OSError:
            bell.close()
            raise
        self._bell = bell
        self._poll.register(bell, select.POLLIN)

    def _listed(self) -> list[str]:
        """Return the names of all bells; the folder is read when it has changed."""
        if self._descriptor < 0:
            return []
        with suppress(OSError):
            stamp = os.fstat(self._descriptor).st_mtime_ns
            # One that changed in this moment may change again within the clock's grain.
            if stamp != self._stamp or clock.file_time_ns() - stamp < 50_000_000:
                self._names = os.listdir(self._descriptor)
                self._stamp = stamp
        return self._names

    def _take_down(self, name: str) -> None:
        path = f"{self._base}/{name}"
        with suppress(OSError):
            found = os.stat(path)
            age = (clock.file_time_ns() - found.st_mtime_ns) / 1e9
            if stat.S_ISSOCK(found.st_mode) and age > OLD_SECONDS:
                os.unlink(path)
