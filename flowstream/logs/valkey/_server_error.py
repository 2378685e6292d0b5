"""What the errors mean that a Valkey or Redis server replies with.

An error reply begins with a code in capitals. The table `MEANINGS` says what each means for a log.
A code that is not in it is a fault of a command or a script: the log that sent it knows what to do.
"""

from __future__ import annotations

import enum
import re

from flowstream._errors import LogFullError, LogUnavailableError

_TEXT_CHARACTERS = 300

# Redis before 7 wraps the error of a command in a script: the command's own stands inside.
_IN_A_SCRIPT = re.compile(r": -([A-Z]+) ")
_CODE = re.compile(r"[A-Z][A-Z0-9]*")


class Meaning(enum.Enum):
    """What is to be done about an error reply."""

    ELSEWHERE = "reconnect"
    """This is not the server that it was: reconnect, and look for the one that is."""
    LATER = "later"
    """Nothing was done; the same command will work soon, over the same connection."""
    FULL = "full"
    """Nothing was done: there is no room."""
    REFUSED = "refused"
    """Nothing was done, and will not be until somebody changes a setting."""
    FAULT = "fault"
    """The command or the script failed, perhaps in the middle."""


_CLUSTER = (
    "the server is part of a Cluster, which a log can't be kept in: use one primary with replicas, "
    "and Sentinel if you like"
)

MEANINGS: dict[str, tuple[Meaning, str]] = {
    "READONLY": (Meaning.ELSEWHERE, "the server has become a replica"),
    "MASTERDOWN": (Meaning.ELSEWHERE, "the server is a replica that has lost its primary"),
    "UNBLOCKED": (Meaning.ELSEWHERE, "the server became a replica while it waited for others"),
    "LOADING": (Meaning.ELSEWHERE, "the server has restarted, and loads its data"),
    "NOAUTH": (Meaning.ELSEWHERE, "the server asks for a password: write it in the URL"),
    "NOSCRIPT": (Meaning.ELSEWHERE, "the server has forgotten the log's scripts"),
    "REDIRECT": (Meaning.ELSEWHERE, "the server has become a replica"),
    "BUSY": (Meaning.LATER, "a script keeps the server busy"),
    "TRYAGAIN": (Meaning.LATER, "the server asks to try again"),
    "NOREPLICAS": (Meaning.LATER, "too few replicas are in step (min-replicas-to-write)"),
    "OOM": (Meaning.FULL, "the server's memory is full: raise its maxmemory, or keep fewer events"),
    "MISCONF": (
        Meaning.FULL,
        "the server can't save to its disk, so it takes no writes: see its log",
    ),
    "NOPERM": (Meaning.REFUSED, "the user lacks a permission: see the ACL that the docs give"),
    "WRONGPASS": (Meaning.REFUSED, "the server does not know this user or password"),
    "DENIED": (Meaning.REFUSED, "the server is in protected mode: set a password"),
    "NOPROTO": (Meaning.REFUSED, "the server does not speak RESP3: use Valkey, or Redis 6.2"),
    "MOVED": (Meaning.REFUSED, _CLUSTER),
    "ASK": (Meaning.REFUSED, _CLUSTER),
    "CROSSSLOT": (Meaning.REFUSED, _CLUSTER),
    "CLUSTERDOWN": (Meaning.REFUSED, _CLUSTER),
}
"""By the code: what to do, and what it means for a person."""


class ServerError(Exception):
    """An error that a server replied with.

    Attributes:
        code: the word in capitals that it begins with, such as ``OOM``; that of the command inside
            a script, if the script failed by it.
        text: all of it, up to 300 characters. It may hold parts of the command.
        meaning: what is to be done.
        sentence: what it means, for a person.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text[:_TEXT_CHARACTERS])
        self.text = text[:_TEXT_CHARACTERS]
        found = _CODE.match(text)
        self.code = found.group() if found else ""
        inner = _IN_A_SCRIPT.search(text) if self.code == "ERR" else None
        if inner is not None and inner[1] in MEANINGS:
            self.code = inner[1]
        self.meaning, self.sentence = MEANINGS.get(self.code, (Meaning.FAULT, text[:100]))

    def unavailable(self, where: str) -> LogUnavailableError:
        """Return what a log raises for this error.

        Args:
            where: the server's address.
        """
        if self.meaning is Meaning.FULL:
            return LogFullError(f"{where}: {self.sentence}")
        # A fault may be in the middle of a script; UNBLOCKED comes when the write is done.
        maybe = self.meaning is Meaning.FAULT or self.code == "UNBLOCKED"
        return LogUnavailableError(f"{where}: {self.sentence}", maybe=maybe)
