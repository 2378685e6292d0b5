"""A Valkey or Redis server of a test's own, which can be broken."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

from .certificates import Certificates
from .own_process import PATIENCE, OwnProcess, free_port
from .programs import key_value_program
from .wire import WireError, call

_SETTINGS = {
    "bind": "127.0.0.1",
    "protected-mode": "no",
    "databases": "10000",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "repl-diskless-sync-delay": "0",
    "enable-debug-command": "local",
    "repl-ping-replica-period": "1",
}


class KeyValueServer:
    """One server. It is started at once, in a folder of its own.

    Args:
        kind: "valkey" or "redis".
        certificates: with them it also takes TLS, at `tls_port`. The wheel's Valkey has no TLS; a
            `Proxy` can have it.
        clients_need_certificates: over TLS.
        settings: of its configuration, with ``_`` for ``-``.

    Attributes:
        port: of 127.0.0.1.
        tls_port: the same with TLS; 0 without certificates.

    Raises:
        MissingProgramError: there is no program of it.
    """

    def __init__(
        self,
        kind: str = "valkey",
        *,
        certificates: Certificates | None = None,
        clients_need_certificates: bool = False,
        **settings: str | int,
    ) -> None:
        self.kind = kind
        self._program = key_value_program(kind)
        self.folder = Path(mkdtemp(prefix=f"{kind}-"))
        self.certificates = certificates
        self._needs = clients_need_certificates
        self._file = self.folder / "server.conf"
        self._users = self.folder / "users.acl"
        self._users.touch()
        self._settings = settings
        self._process: OwnProcess | None = None
        for attempt in range(5):
            self.port = free_port()
            self.tls_port = free_port() if certificates else 0
            self._configure()
            try:
                self.start()
                return
            except RuntimeError as error:  # somebody else was faster to take the port
                if attempt == 4 or "ddress already in use" not in str(error):
                    self.close()
                    raise

    def _configure(self) -> None:
        settings = {
            **_SETTINGS,
            "port": self.port,
            "dir": self.folder,
            "aclfile": self._users,
            **{name.replace("_", "-"): value for name, value in self._settings.items()},
        }
        if "requirepass" in settings:
            del settings["aclfile"]  # the file would win
        if self.certificates is not None:
            settings |= {
                "tls-port": self.tls_port,
                "tls-cert-file": self.certificates.certificate,
                "tls-key-file": self.certificates.key,
                "tls-ca-cert-file": self.certificates.authority,
                "tls-auth-clients": "yes" if self._needs else "no",
            }
        lines = [f'{name} "{value}"\n' for name, value in settings.items()]
        self._file.write_text("".join(lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, and remove its folder."""
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of its database 0."""
        return f"{self.kind}://127.0.0.1:{self.port}/0"

    @property
    def tls_url(self) -> str:
        """The same with TLS."""
        return f"rediss://localhost:{self.tls_port}/0"

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written."""
        return (self.folder / "log").read_text(errors="replace")

    def call(self, *command: bytes | str | float) -> Any:
        """Send it one command, and return the reply.

        Raises:
            WireError: it has refused.
            OSError: it does not run, or is frozen.
        """
        password = self._settings.get("requirepass")
        user = None if password is None else ("default", str(password))
        return call(self.port, *command, user=user)

    # -- its life --------------------------------------------------------------------------

    def start(self) -> None:
        """Start it with the data that it has, and wait until it answers."""
        self._process = OwnProcess([self._program, self._file], self.folder)
        self._process.wait_until(self._answers, self.kind)

    def _answers(self) -> bool:
        try:
            return bool(self.call("PING"))
        except WireError as error:
            return not str(error).startswith("LOADING")

    def stop(self) -> None:
        """Have it end as a supervisor does: it writes all that it has."""
        assert self._process is not None
        self._process.end()

    def kill(self) -> None:
        """Kill it at once (SIGKILL)."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Kill it, and start it."""
        self.kill()
        self.start()

    def take_port(self, port: int) -> None:
        """Listen at another port from now on. Connections that there are stay.

        So an address moves from one server to another, as in a failover.
        """
        assert self._process is not None
        if self._process.runs:
            self.call("CONFIG", "SET", "port", port)
            self.port = port
            self.call("CONFIG", "REWRITE")
        else:
            lines = self._file.read_text().splitlines()
            others = [line for line in lines if not line.startswith("port ")]
            self._file.write_text("\n".join([*others, f"port {port}", ""]))
            self.port = port

    def freeze(self) -> None:
        """Have it stand still (SIGSTOP)."""
        assert self._process is not None
        self._process.freeze()

    def thaw(self) -> None:
        """Have it go on (SIGCONT)."""
        assert self._process is not None
        self._process.thaw()

    # -- its data --------------------------------------------------------------------------

    def cut_aof(self, size: int) -> int:
        """Cut so many bytes off its append-only file while it does not run; return how many were.

        It is what a power cut does to what was not yet on the disk.
        """
        assert self._process is not None
        assert not self._process.runs, "kill it first"
        files = sorted(
            self.folder.glob("appendonlydir/*.incr.aof"), key=lambda file: file.stat().st_mtime
        )
        if not files:
            return 0
        length = files[-1].stat().st_size
        with files[-1].open("r+b") as file:
            file.truncate(max(0, length - size))
        return min(size, length)

    def lose_all(self) -> None:
        """Remove all its data while it does not run."""
        assert self._process is not None
        assert not self._process.runs, "kill it first"
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        for file in self.folder.glob("*.rdb"):
            file.unlink()

    def flush(self) -> None:
        """Have it forget everything (FLUSHALL)."""
        self.call("FLUSHALL")

    def config(self, **settings: str | int) -> None:
        """Change its settings while it runs, with ``_`` for ``-``."""
        for name, value in settings.items():
            self.call("CONFIG", "SET", name.replace("_", "-"), value)

    def add_user(self, name: str, password: str, *rules: str) -> None:
        """Add or change an ACL user, for its next lives, too; without `rules` it may do all."""
        rules = rules or ("~*", "&*", "+@all")
        self.call("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
        self.call("ACL", "SAVE")

    # -- its replicas ----------------------------------------------------------------------

    def replica_of(self, master: KeyValueServer, *, through: int = 0) -> None:
        """Have it copy another one from now on. See `wait_in_step`, too.

        Args:
            master: what it copies.
            through: the port of a proxy in front of it.
        """
        if password := master._settings.get("requirepass"):
            self.config(masterauth=password)
        self.call("REPLICAOF", "127.0.0.1", through or master.port)
        self.call("CONFIG", "REWRITE")

    def wait_in_step(self, master: KeyValueServer) -> None:
        """Wait until it has all that `master` has at this moment, also in its file."""
        wanted = master.info("replication")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(WireError, OSError, KeyError):
                found = self.info("replication")
                if found["master_replid"] != wanted["master_replid"]:
                    # It follows another life of the master; or that begins a new one for it.
                    wanted = master.info("replication")
                elif found["master_link_status"] == "up":
                    behind = int(wanted["master_repl_offset"]) - int(found["slave_repl_offset"])
                    if behind <= 0 and not self._rewrites:
                        return
            time.sleep(0.01)
        raise RuntimeError(f"the replica is not in step:\n{self.log[-2000:]}")

    @property
    def _rewrites(self) -> bool:
        """Whether it still writes its append-only file anew, as a replica does at first."""
        found = self.info("persistence")
        return "1" in (found["aof_rewrite_in_progress"], found["aof_rewrite_scheduled"])

    def promote(self) -> None:
        """Have it be a master from now on."""
        self.call("REPLICAOF", "NO", "ONE")
        self.call("CONFIG", "REWRITE")

    @property
    def is_master(self) -> bool:
        """Whether it takes writes."""
        return self.info("replication")["role"] == "master"

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)
