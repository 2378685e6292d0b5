"""Sentinels: they watch a master and its replicas, and promote one when the master is away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

from .certificates import Certificates
from .key_value import KeyValueServer
from .own_process import PATIENCE, OwnProcess, free_port
from .programs import key_value_program
from .wire import WireError, call


class Sentinels:
    """Some Sentinels that watch one master.

    Args:
        master: what they watch. Its replicas they find by themselves.
        name: that they call it by.
        count: how many Sentinels there are; more than half of them decide.
        down_after: milliseconds after which a server that does not answer is down.
        password: that clients need to ask a Sentinel.
        user: the ACL user and password by which they enter the servers.
        certificates: with them they take TLS as well, at `tls_ports` (Debian's Redis only).

    Attributes:
        ports, tls_ports: of 127.0.0.1.
    """

    def __init__(
        self,
        master: KeyValueServer,
        *,
        name: str = "main",
        count: int = 3,
        down_after: int = 500,
        password: str | None = None,
        user: tuple[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.name = name
        self.password = password
        self._folder = Path(mkdtemp(prefix="sentinels-"))
        self._processes: list[OwnProcess] = []
        program = key_value_program(master.kind)
        self.ports = [free_port() for _ in range(count)]
        self.tls_ports = [free_port() for _ in range(count)] if certificates else []
        try:
            for place, port in enumerate(self.ports):
                folder = self._folder / str(place)
                folder.mkdir()
                lines = [
                    f"port {port}",
                    "bind 127.0.0.1",
                    "protected-mode no",
                    f'dir "{folder}"',
                    f"sentinel monitor {name} 127.0.0.1 {master.port} {count // 2 + 1}",
                    f"sentinel down-after-milliseconds {name} {down_after}",
                    f"sentinel failover-timeout {name} 3000",
                ]
                if password is not None:
                    lines += [f'requirepass "{password}"', f'sentinel sentinel-pass "{password}"']
                if user is not None:
                    lines += [
                        f"sentinel auth-user {name} {user[0]}",
                        f"sentinel auth-pass {name} {user[1]}",
                    ]
                if certificates is not None:
                    lines += [
                        f"tls-port {self.tls_ports[place]}",
                        f'tls-cert-file "{certificates.certificate}"',
                        f'tls-key-file "{certificates.key}"',
                        f'tls-ca-cert-file "{certificates.authority}"',
                        "tls-auth-clients no",
                    ]
                file = folder / "sentinel.conf"
                file.write_text("\n".join([*lines, ""]))
                process = OwnProcess([program, file, "--sentinel"], folder)
                self._processes.append(process)
                process.wait_until(partial(self._answers, place), "a Sentinel")
            self.wait_until_ready(len(self._replicas_of(master)))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _replicas_of(master: KeyValueServer) -> Sequence[str]:
        return [key for key in master.info("replication") if key.startswith("slave")]

    def _answers(self, sentinel: int) -> bool:
        return bool(self.call("PING", sentinel=sentinel))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill them."""
        for process in self._processes:
            process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, *command: bytes | str | float, sentinel: int = 0) -> Any:
        """Send one of them a command, and return its reply."""
        user = None if self.password is None else ("default", self.password)
        return call(self.ports[sentinel], *command, user=user)

    def wait_until_ready(self, replicas: int) -> None:
        """Wait until each knows all others and so many replicas, so that a failover can succeed."""
        end = time.monotonic() + PATIENCE
        for place in range(len(self.ports)):
            while True:
                found = self._master(place)
                others, copies = found["num-other-sentinels"], found["num-slaves"]
                if (int(others), int(copies)) >= (len(self.ports) - 1, replicas):
                    break
                if time.monotonic() > end:
                    raise RuntimeError(f"the Sentinels do not find each other: {found}")
                time.sleep(0.05)

    def _master(self, sentinel: int) -> dict[str, str]:
        flat = self.call("SENTINEL", "MASTER", self.name, sentinel=sentinel)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def master_port(self) -> int:
        """Return the port of the server that is the master now, as the first that answers says."""
        for place, process in enumerate(self._processes):
            if process.runs:
                with suppress(OSError):
                    address = self.call(
                        "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name, sentinel=place
                    )
                    return int(address[1])
        raise RuntimeError("no Sentinel answers")

    def wait_for_master(self, other_than: KeyValueServer) -> int:
        """Wait until another server is the master; return its port."""
        end = time.monotonic() + PATIENCE
        while (port := self.master_port()) == other_than.port:
            if time.monotonic() > end:
                raise RuntimeError("no failover")
            time.sleep(0.02)
        return port

    def failover(self) -> None:
        """Have them promote a replica although the master is well; **wait** until it is so."""
        before = self.master_port()
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.call("SENTINEL", "FAILOVER", self.name)
                break
            except WireError:  # one is under way, or no replica is good enough yet
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        while self.master_port() == before and time.monotonic() < end:
            time.sleep(0.02)

    def kill(self, sentinel: int) -> None:
        """Kill one of them."""
        self._processes[sentinel].kill()

    def freeze(self, sentinel: int) -> None:
        """Have one of them stand still."""
        self._processes[sentinel].freeze()

    def thaw(self, sentinel: int) -> None:
        """Have one of them go on."""
        self._processes[sentinel].thaw()
