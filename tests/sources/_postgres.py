"""Connections to Postgres as another one sees them, and addresses that lead nowhere."""

from __future__ import annotations

import os
import socket
from itertools import count

import psycopg
import trio

_numbers = count(1)


class Sessions:
    """Connections of one test, as another connection sees them.

    Attributes:
        dsn: for the connections that are watched.
        view: the other connection.
    """

    def __init__(self, dsn):
        self.name = f"rows {os.getpid()} {next(_numbers)}"
        self.dsn = psycopg.conninfo.make_conninfo(dsn, application_name=self.name)
        self.view = psycopg.connect(dsn, autocommit=True)

    def close(self):
        self.view.close()

    def ask(self, where, *what):
        """Return `what` of each of our connections that `where` is true for."""
        query = f"""SELECT {", ".join(what)} FROM pg_stat_activity
                    WHERE application_name = %s AND {where}"""
        return self.view.execute(query, [self.name]).fetchall()

    def sessions(self):
        """Return what each of our connections does: state and whether it has a transaction."""
        return self.ask("true", "state", "xact_start IS NOT NULL")

    async def wait_until(self, sessions):
        """Wait until our connections are as given: the server takes a moment to end one."""
        with trio.fail_after(10):
            while self.sessions() != sessions:  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.002)

    def computes(self):
        """Return whether one of them runs a query."""
        return self.ask("state = 'active'")

    def end_sessions(self):
        """Do what an administrator does, or a server that is restarted."""
        self.ask("true", "pg_terminate_backend(pid)")


def refused_dsn(dsn, how):
    """Return a DSN that leads nowhere: to no server, to no database, or with a wrong password."""
    if how == "no server":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        return psycopg.conninfo.make_conninfo(dsn, host="127.0.0.1", port=port)
    wrong = {
        "no database": {"dbname": "missing"},
        "wrong password": {"user": "nobody", "password": "wrong"},
    }
    return psycopg.conninfo.make_conninfo(dsn, **wrong[how])
