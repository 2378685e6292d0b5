"""Postgres as the broker of a run."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote

from real_servers.own_postgres import PASSWORD, USER, OwnPostgres
from real_servers.proxy import Proxy

from .broker import Broker

_SETTINGS = {
    "wal_retrieve_retry_interval": "200ms",
    "wal_keep_size": "256MB",
    "log_min_messages": "error",
}


class PostgresBroker(Broker):
    """A primary, at a socket that stays the same, and a standby.

    The socket is a link in a folder of its own, which leads to the primary's.

    Args:
        kind: "debian", "wheel", or "" for the machine's if it has one.
        query: of the log's URL.
    """

    def __init__(self, kind: str = "", query: str = "") -> None:
        super().__init__()
        self._folder = Path(mkdtemp(prefix="address-"))
        self._address = self._folder / ".s.PGSQL.5432"
        self.url = f"postgres://{USER}:{quote(PASSWORD)}@/postgres?host={self._folder}{query}"
        try:
            self._primary = OwnPostgres(kind, **_SETTINGS)
            self._point()
            self._log("init")
            self._line = Proxy(self._address)
            self._standby = OwnPostgres(
                standby_of=self._primary, through=self._line.port, **_SETTINGS
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for name in ("_line", "_standby", "_primary"):
            if made := getattr(self, name, None):
                made.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _log(self, command: str) -> None:
        """Run ``flowstream log``."""
        subprocess.run(
            [sys.executable, "-c", "from flowstream.cli import main; main()", "log", command],
            env={**os.environ, "FLOWSTREAM_LOG_URL": self.url},
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _point(self) -> None:
        """Have the address lead to the primary, from one moment to the next."""
        new = self._folder / "new"
        new.symlink_to(self._primary.socket)
        new.rename(self._address)

    def restart(self) -> None:
        self._primary.restart()

    def freeze(self) -> None:
        self._primary.freeze()

    def thaw(self) -> None:
        self._primary.thaw()

    def cut_sessions(self, dice: random.Random) -> None:
        self._cut(self._primary, dice, 0.5)

    @staticmethod
    def _cut(server: OwnPostgres, dice: random.Random, share: float) -> None:
        query = """SELECT pid FROM pg_stat_activity
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
        pids = [pid for (pid,) in server.sql(query)]
        for pid in dice.sample(pids, int(len(pids) * share)):
            server.sql("SELECT pg_terminate_backend(%s)", pid)

    def refuse_writes(self) -> None:
        self._read_only("on")

    def take_writes(self) -> None:
        self._read_only("off")

    def _read_only(self, value: str) -> None:
        self._primary.sql(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        self._primary.sql("SELECT pg_reload_conf()")

    # -- its data --------------------------------------------------------------------------

    def lose_tail(self, dice: random.Random, wait: Callable[[], None]) -> None:
        """Restore a copy of its disk. Only who has seen more can tell that it is one."""
        copy = self._primary.copy()
        wait()
        self._restore(copy)

    def lose_tail_unseen(self, wait: Callable[[], None], kill_all: Callable[[], None]) -> None:
        """Do the same when nobody is there, and say so, as an administrator must."""
        copy = self._primary.copy()
        wait()
        kill_all()
        self._restore(copy)
        self._log("new-epoch")

    def _restore(self, copy: Path) -> None:
        self._standby.crash()
        self._primary.restore(copy)
        shutil.rmtree(copy)
        self._standby.follow(self._primary, through=self._line.port)

    # -- the two servers -------------------------------------------------------------------

    def fail_over_in_step(self, dice: random.Random) -> None:
        self._standby.wait_in_step(self._primary)
        self._primary.stop()  # it ends when the standby has all of it
        self._swap()
        self._standby.follow(self._primary, through=self._line.port)

    def fail_over_behind(self, dice: random.Random, wait: Callable[[], None]) -> None:
        self._standby.wait_in_step(self._primary)
        self._line.hold()
        wait()
        if dice.random() < 0.5:
            self._primary.crash()
        else:
            self._primary.freeze()
        self._swap()
        self._standby.follow(self._primary, through=self._line.port)

    def split(self, dice: random.Random, wait: Callable[[], None]) -> None:
        old = self._primary
        self._standby.wait_in_step(old)
        self._line.hold()
        self._swap()  # who is connected stays
        self._cut(old, dice, 0.5)
        wait()
        old.follow(self._primary, through=self._line.port)

    def _swap(self) -> None:
        """Have the standby be the primary, at the address."""
        self._line.cut()
        self._standby.promote()
        self._primary, self._standby = self._standby, self._primary
        self._point()
        self._line.release()
