"""One process of a server: it is started, frozen and killed here, by its id."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

# Seconds in which a server comes up or ends. It is a bound, and no measure: machines are busy.
PATIENCE = 60.0


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has.

    It is below the range that the system draws ports of clients from, so a server that is started
    again finds it free again.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as unused, suppress(OSError):
            unused.bind(("127.0.0.1", port))
            return port


class OwnProcess:
    """A server's process, with its children.

    Args:
        command: what to run.
        folder: where it runs, and where the file ``log`` takes what it writes.
        account: the user that it runs as; None for ours.
    """

    def __init__(
        self, command: Sequence[str | Path], folder: Path, account: str | None = None
    ) -> None:
        self._log = folder / "log"
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=account,
                cwd=folder,
            )
        self.pid = self._process.pid
        self._frozen = False

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")

    def wait_until(self, up: Callable[[], bool], what: str) -> None:
        """Wait until `up()`, which may raise OSError for no.

        Raises:
            RuntimeError: it has ended, or it takes too long.
        """
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                if up():
                    return
            if not self.runs or time.monotonic() > end:
                raise RuntimeError(f"{what} does not start:\n{self.log[-2000:]}")
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.runs:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop it and its children where they are (SIGSTOP), and wait until they stand."""
        self._frozen = True
        self._stop(self.pid)  # first: it starts no more of them
        for pid in self.children:
            self._stop(pid)

    def thaw(self) -> None:
        """Let them go on (SIGCONT)."""
        self._frozen = False
        for pid in self.children:
            _signal(pid, signal.SIGCONT)
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and its children at once (SIGKILL), and wait until they are gone."""
        if not self.runs:
            return
        self._stop(self.pid)
        children = self.children
        self.send(signal.SIGKILL)
        for pid in children:
            _signal(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)
        _wait_for_states(children, "Z")

    def end(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end, and wait until it has; kill it if it does not."""
        if self._frozen:
            self.thaw()
        self.send(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    @staticmethod
    def _stop(pid: int) -> None:
        _signal(pid, signal.SIGSTOP)
        _wait_for_states([pid], "TtZ")

    @property
    def children(self) -> list[int]:
        """The ids of its child processes."""
        with suppress(OSError):
            path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            return [int(one) for one in path.read_text().split()]
        return []


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_for_states(pids: Sequence[int], states: str) -> None:
    """Wait until each process is in one of these states, or is no more."""
    end = time.monotonic() + PATIENCE
    while any(_state(pid) not in states for pid in pids):
        if time.monotonic() > end:
            raise RuntimeError(f"processes {pids} are not in a state of {states}")
        time.sleep(0.002)


def _state(pid: int) -> str:
    """Return the state of a process, as /proc says it; of one that is no more, Z."""
    try:
        # It stands behind the program's name, which is in brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
