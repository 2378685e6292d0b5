"""What the errors of a server mean for a log."""

from __future__ import annotations

import pytest

from flowstream._errors import LogFullError, LogUnavailableError
from flowstream.logs.valkey._server_error import Meaning, ServerError


@pytest.mark.parametrize(
    ("text", "code", "meaning", "maybe"),
    [
        ("READONLY You can't write against a read only replica.", "READONLY", "ELSEWHERE", False),
        ("MASTERDOWN Link with MASTER is down", "MASTERDOWN", "ELSEWHERE", False),
        ("LOADING Redis is loading the dataset in memory", "LOADING", "ELSEWHERE", False),
        ("UNBLOCKED force unblock, instance state changed", "UNBLOCKED", "ELSEWHERE", True),
        ("NOAUTH Authentication required.", "NOAUTH", "ELSEWHERE", False),
        ("BUSY Redis is busy running a script.", "BUSY", "LATER", False),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", "LATER", False),
        ("NOPERM User x has no permissions", "NOPERM", "REFUSED", False),
        ("MOVED 3999 127.0.0.1:6381", "MOVED", "REFUSED", False),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN", "REFUSED", False),
        ("NOSCRIPT No matching script.", "NOSCRIPT", "ELSEWHERE", False),
        ("ERR unknown", "ERR", "FAULT", True),
        ("no code", "", "FAULT", True),
        (
            "ERR Error running script (call to f_a1): @user_script:3: @user_script: 3: "
            "-READONLY You can't write against a read only replica.",
            "READONLY",
            "ELSEWHERE",
            False,
        ),
    ],
)
def test_an_error_says_what_to_do(text: str, code: str, meaning: str, maybe: bool) -> None:
    """Each code has its meaning, that of a command inside a script of Redis 6.2, too."""
    error = ServerError(text)
    assert (error.code, error.meaning) == (code, Meaning[meaning])
    raised = error.unavailable("host:6379")
    assert type(raised) is LogUnavailableError
    assert raised.maybe is maybe
    assert str(raised).startswith("host:6379: ")


@pytest.mark.parametrize("text", ["OOM command not allowed", "MISCONF Errors writing to the AOF"])
def test_a_full_server_is_a_full_log(text: str) -> None:
    """A server without memory, or that can't write its disk, appended nothing."""
    raised = ServerError(text).unavailable("host:6379")
    assert type(raised) is LogFullError
    assert not raised.maybe


def test_a_long_error_is_cut() -> None:
    """A server's error may repeat what it was sent: not all of it is kept."""
    assert len(str(ServerError("ERR " + "x" * 10_000))) == 300
