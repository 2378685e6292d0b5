"""Valkey or Redis as the broker of a run."""

from __future__ import annotations

import random
from collections.abc import Callable

from real_servers.key_value import KeyValueServer
from real_servers.own_process import free_port
from real_servers.proxy import Proxy

from .broker import Broker

# The most bytes that a power cut takes of the append-only file: half a second of it, about.
_TAIL = 200_000


class ValkeyBroker(Broker):
    """A master, at a port that stays the same, and a replica.

    Args:
        kind: "valkey" or "redis".
        query: of the log's URL.
        fsync: when it writes what it acknowledges: "everysec", as is usual, or "always".
    """

    def __init__(self, kind: str, query: str = "", *, fsync: str = "everysec") -> None:
        super().__init__()
        self._master = KeyValueServer(kind, appendfsync=fsync)
        self.url = f"{self._master.url}{query}"
        self._port = self._master.port
        try:
            self._replica = KeyValueServer(kind, appendfsync=fsync)
            self._line = Proxy(self._port)  # from the master to the replica
            self._follow()
            self._replica.wait_in_step(self._master)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if line := getattr(self, "_line", None):
            line.close()
        for server in (self._master, getattr(self, "_replica", None)):
            if server is not None:
                server.close()

    def restart(self) -> None:
        self._master.restart()

    def lose_tail(self, dice: random.Random, wait: Callable[[], None]) -> None:
        """Cut its append-only file short, as a power cut does, or remove it."""
        wait()
        self._master.kill()
        if dice.random() < 0.2:
            self._master.lose_all()
        else:
            self._master.cut_aof(dice.randrange(1, _TAIL))
        self._master.start()

    def flush(self) -> None:
        self._master.flush()

    def refuse_writes(self) -> None:
        self._master.config(maxmemory=1)

    def take_writes(self) -> None:
        self._master.config(maxmemory=0)

    def freeze(self) -> None:
        self._master.freeze()

    def thaw(self) -> None:
        self._master.thaw()

    def cut_sessions(self, dice: random.Random) -> None:
        for one in self._clients(dice, 0.5):
            self._master.call("CLIENT", "KILL", "ID", one)

    def _clients(self, dice: random.Random, share: float) -> list[str]:
        """Draw some of the master's clients that are no replicas; return their ids."""
        lines = self._master.call("CLIENT", "LIST", "TYPE", "normal").splitlines()
        ids = [dict(word.partition("=")[::2] for word in line.split())["id"] for line in lines]
        return dice.sample(ids, int(len(ids) * share))

    # -- the two servers -------------------------------------------------------------------

    def fail_over_in_step(self, dice: random.Random) -> None:
        self._replica.wait_in_step(self._master)
        self._master.call("CLIENT", "PAUSE", 10_000, "WRITE")
        self._replica.wait_in_step(self._master)
        self._give_up(dice)

    def fail_over_behind(self, dice: random.Random, wait: Callable[[], None]) -> None:
        self._replica.wait_in_step(self._master)
        self._line.hold()
        wait()
        self._line.cut()
        self._give_up(dice)

    def _give_up(self, dice: random.Random) -> None:
        """Have the master be away, killed or frozen, and come back behind the replica."""
        old = self._master
        if dice.random() < 0.5:
            old.kill()
            old.take_port(free_port())
            self._promote()
            old.start()
        else:
            old.take_port(free_port())
            old.freeze()
            self._promote()
            old.thaw()
        self._demote(old)

    def split(self, dice: random.Random, wait: Callable[[], None]) -> None:
        old = self._master
        self._replica.wait_in_step(old)
        old.take_port(free_port())  # who is connected stays
        self._line.hold()
        self._line.cut()
        movers = self._clients(dice, 0.5)
        self._promote()
        for one in movers:
            old.call("CLIENT", "KILL", "ID", one)
        wait()
        self._demote(old)

    def _promote(self) -> None:
        """Have the replica be the master, and take the address over, which is free."""
        self._replica.promote()
        self._replica.take_port(self._port)
        self._master, self._replica = self._replica, self._master

    def _demote(self, old: KeyValueServer) -> None:
        """Have the old master be the replica, as Sentinel does it."""
        self._follow()
        for kind in ("normal", "pubsub"):  # they are to look for the master again
            old.call("CLIENT", "KILL", "TYPE", kind)
        old.call("CLIENT", "UNPAUSE")

    def _follow(self) -> None:
        self._line.point_at(self._master.port)
        self._line.cut()
        self._line.release()
        self._replica.replica_of(self._master, through=self._line.port)
