"""What this process knows of the log's server: its lineage, and how much WAL it had.

A server that has less WAL than it had, in the same lineage, was set back to an earlier state. So
each new connection tells what is known, and the server begins a new life if it is true.
"""

from __future__ import annotations


class Lineage:
    """The lineage, and the highest position in its WAL that was seen.

    Attributes:
        name: see ``sql/epochs.sql``; "" until a server was heard.
        wal: the position, in bytes.
    """

    __slots__ = ("name", "wal")

    def __init__(self) -> None:
        self.name = ""
        self.wal = 0

    def hear(self, name: str, wal: int) -> None:
        """Note what a server says when it is greeted."""
        self.wal = max(self.wal, wal) if name == self.name else wal
        self.name = name

    def see(self, wal: int) -> None:
        """Note how far the server was."""
        self.wal = max(self.wal, wal)
