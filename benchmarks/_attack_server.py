"""The servers under attack: flowstream's command and Hypercorn's, with one configuration."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from single_stream import pinned

COMMANDS = {
    "flowstream": ["-c", "from flowstream.cli import main; main()", "serve"],
    "hypercorn": ["-m", "hypercorn", "--worker-class", "trio"],
}
SIDES = tuple(COMMANDS)
MESSAGE = 8 << 20  # the bound of a WebSocket message
GRACE = 1  # seconds that requests may go on in a shutdown
_PATIENCE = 15.0  # seconds that an end may take before it is called none

_SETTINGS = f"""
bind = ["127.0.0.1:{{https}}"]
insecure_bind = ["127.0.0.1:{{http}}"]
certfile = "{{certificate}}"
keyfile = "{{certificate}}"
websocket_max_message_size = {MESSAGE}
graceful_timeout = {GRACE}
"""


@dataclass(frozen=True)
class Server:
    """A server at work."""

    command: subprocess.Popen[bytes]
    worker: psutil.Process
    http: int
    https: int
    log: Path

    def memory(self) -> int:
        """Return the resident set of the process that serves, in bytes; 0 if it has died."""
        try:
            return int(self.worker.memory_info().rss)
        except psutil.Error:
            return 0

    def highest(self) -> int:
        """Return the highest that it ever was."""
        try:
            status = Path(f"/proc/{self.worker.pid}/status").read_text()
        except OSError:
            return 0
        mark = status.partition("VmHWM:")[2].split()  # none of a process that waits to be reaped
        return int(mark[0]) * 1024 if mark else 0

    @property
    def is_alive(self) -> bool:
        """Whether the process that serves is still there."""
        try:
            return self.worker.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def terminate(self) -> float | None:
        """Send SIGTERM; return the seconds until the server has ended, or None."""
        begin = time.monotonic()
        self.command.send_signal(signal.SIGTERM)
        try:
            self.command.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - begin

    def tracebacks(self) -> int:
        """Return how many are in the log."""
        return self.log.read_bytes().count(b"Traceback (most recent call last)")


@contextmanager
def running(side: str, certificate: Path, directory: Path) -> Iterator[Server]:
    """Run one side, on a core of its own."""
    http, https = free_ports(2)
    settings, log = directory / "settings.toml", directory / "log"
    text = _SETTINGS.format(http=http, https=https, certificate=certificate)
    if side == "flowstream":
        text += "h2c = true\n"
    settings.write_text(text)
    arguments = ["-c" if side == "flowstream" else "--config", str(settings), "_attack_app:app"]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        with pinned(0):
            command = subprocess.Popen(
                [sys.executable, *COMMANDS[side], *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parent,
            )
        stack.callback(end, command)
        wait_for(http, command, log)
        # A supervisor listens before its worker is there.
        family = [psutil.Process(command.pid), *psutil.Process(command.pid).children()]
        worker = max(family, key=lambda one: one.memory_info().rss)
        yield Server(command, worker, http, https, log)


def end(command: subprocess.Popen[bytes]) -> None:
    """Kill a command and its workers."""
    if command.poll() is None:
        for one in psutil.Process(command.pid).children():
            one.kill()
        command.kill()
    command.wait()


def wait_for(port: int, command: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if connection.recv(1024):
                    return
        except OSError:
            pass
        if command.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
