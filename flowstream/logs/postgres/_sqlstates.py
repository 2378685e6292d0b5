"""What to do when Postgres refuses a statement, by its SQLSTATE: a table.

========== ======================================================================================
`Remedy`   what the log does
========== ======================================================================================
RETRY      the same statement again on the same connection: another transaction was in the way
RECONNECT  connect again, perhaps to another server, and then do it again
FULL       raise `LogFullError`: nothing was stored, and room has to be made
REFUSED    raise `LogUnavailableError`: somebody has to change a setting, a grant or the schema
========== ======================================================================================

A code that is not in the table is looked up by its class, the first two characters. Codes of a
refused connection are not here: libpq gives their text alone.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Remedy(enum.Enum):
    """What to do about a refusal."""

    RETRY = "retry"
    RECONNECT = "reconnect"
    FULL = "full"
    REFUSED = "refused"


class Refusal(NamedTuple):
    """What a SQLSTATE means for a log."""

    remedy: Remedy
    advice: str
    """What it means and what to do, for the error: it follows on "Postgres at …". The server's own
    words are added in parentheses."""


_INIT = "run `flowstream log init` with a role that may create a schema, once for each database"

_CODES: dict[str, Refusal] = {
    # Another transaction was in the way.
    "40001": Refusal(Remedy.RETRY, "could not put this in order with other transactions"),
    "40P01": Refusal(Remedy.RETRY, "ended a deadlock by refusing this"),
    "55P03": Refusal(
        Remedy.RETRY,
        "has a topic locked for another transaction: end the session that holds it, see pg_locks",
    ),
    "57014": Refusal(
        Remedy.RETRY,
        "took longer than statement_timeout allows: raise it for the role of the log",
    ),
    # A function that this was about to call was made anew by an upgrade. Or the server is broken.
    "XX000": Refusal(Remedy.RETRY, "has a fault of its own: see its log"),
    # The server is not there, or not the one to write to.
    "25006": Refusal(
        Remedy.RECONNECT,
        "is read-only: name the primary in the DSN, or all servers with "
        "target_session_attrs=read-write",
    ),
    "53300": Refusal(
        Remedy.RECONNECT,
        "has no connection left: raise max_connections, or put PgBouncer in front of it",
    ),
    "57P01": Refusal(Remedy.RECONNECT, "is being stopped or restarted"),
    "57P02": Refusal(Remedy.RECONNECT, "is recovering from a crash"),
    "57P03": Refusal(Remedy.RECONNECT, "is starting up or shutting down"),
    "57P05": Refusal(Remedy.RECONNECT, "closed a session that was idle"),
    "26000": Refusal(
        Remedy.RECONNECT, "has lost a prepared statement: is there a pooler in front of it?"
    ),
    "08P01": Refusal(Remedy.RECONNECT, "or a pooler in front of it broke the connection off"),
    "LG001": Refusal(Remedy.RECONNECT, "has begun a new life of the log, or is another server"),
    # No room.
    "53100": Refusal(
        Remedy.FULL,
        "has no room on its disk: make room there, or let topics keep less (Replay); nothing was "
        "appended",
    ),
    "53400": Refusal(
        Remedy.FULL,
        "is at a limit that is set for it: raise it, or let topics keep less (Replay); nothing was "
        "appended",
    ),
    # Somebody has to change something.
    "3F000": Refusal(Remedy.REFUSED, f"has no log in this database: {_INIT}"),
    "42883": Refusal(Remedy.REFUSED, f"has no log of this release in this database: {_INIT}"),
    "42P01": Refusal(Remedy.REFUSED, f"has no log of this release in this database: {_INIT}"),
    "42703": Refusal(Remedy.REFUSED, f"has a log of another release in this database: {_INIT}"),
    "42501": Refusal(
        Remedy.REFUSED,
        "does not let the role of the DSN use the log: grant it with "
        "`flowstream log init --grant ROLE`",
    ),
    "22021": Refusal(
        Remedy.REFUSED, "has a database whose encoding is not UTF8: create one that is"
    ),
    "22P05": Refusal(
        Remedy.REFUSED, "has a database whose encoding is not UTF8: create one that is"
    ),
    "0A000": Refusal(Remedy.RECONNECT, "has a log that was changed while this was connected"),
}

_CLASSES: dict[str, Refusal] = {
    "08": Refusal(Remedy.RECONNECT, "can't be reached"),
    "40": Refusal(Remedy.RETRY, "rolled this back for another transaction"),
    "53": Refusal(Remedy.RECONNECT, "is short of memory or of connections"),
    "57": Refusal(Remedy.RECONNECT, "was interrupted by its operator"),
    "58": Refusal(Remedy.REFUSED, "has trouble with its disk: see its log"),
    "XX": Refusal(Remedy.REFUSED, "has damaged data or a fault of its own: see its log"),
}
_OTHER = Refusal(Remedy.REFUSED, "refused a statement of the log")


def refusal(state: str) -> Refusal:
    """Return what a SQLSTATE means; one that is not known means that the server refuses."""
    return _CODES.get(state) or _CLASSES.get(state[:2]) or _OTHER
