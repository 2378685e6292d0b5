"""Insert many rows by few statements.

A statement has a price of its own: Python lets other threads run around it, SQLite looks for room
and stores the counter of ``autoincrement``. So rows are collected, and inserted 64 by one statement
while there are as many. There are three statements a table, and each is compiled once a connection.
"""

from __future__ import annotations

import sqlite3
from typing import Any

# Rows of a statement.
_SIZES = (64, 8, 1)


class Insertion:
    """How rows are inserted into a table.

    Args:
        table: its name.
        columns: what each row gives, in this order.
    """

    __slots__ = ("_statements", "_width")

    def __init__(self, table: str, *columns: str) -> None:
        self._width = len(columns)
        row = f"({', '.join('?' * len(columns))})"
        self._statements = [
            (size, f"insert into {table}({', '.join(columns)}) values {', '.join([row] * size)}")
            for size in _SIZES
        ]

    def insert(self, db: sqlite3.Connection, values: list[Any]) -> int:
        """Insert rows in their order; return how many.

        Args:
            db: a connection in a transaction.
            values: those of the first row, those of the second, and so on.
        """
        start = 0
        for size, statement in self._statements:
            step = size * self._width
            while len(values) - start >= step:
                db.execute(statement, values[start : start + step])
                start += step
        return start // self._width
