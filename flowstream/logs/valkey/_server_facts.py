"""What a Valkey or Redis server says about itself, and whether a log can be kept in it.

``HELLO`` says what kind of server it is, and ``INFO`` how it keeps its data. Both are enough: no
``CONFIG GET``, which many services forbid.
"""

from __future__ import annotations

import re
from typing import Any

from flowstream.logs.valkey._server_error import MEANINGS, ServerError

_OLDEST = (6, 2)
_EVICTS_NOTHING = "noeviction"


def read_info(reply: bytes) -> dict[str, str]:
    """Return the fields of an ``INFO`` reply by name."""
    found = {}
    for line in reply.decode(errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            found[name] = value
    return found


def read_hello(reply: Any) -> dict[str, str]:
    """Return the fields of a ``HELLO`` reply by name, those that are text; none if it is no map."""
    if not isinstance(reply, dict):
        return {}
    return {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in reply.items()
        if isinstance(name, bytes) and isinstance(value, bytes)
    }


def read_address(reply: Any) -> tuple[str, int] | None:
    """Return the host and the port that a sentinel replied with; None if it is something else."""
    try:
        host, port = reply
        return host.decode(), int(port)
    except (TypeError, ValueError, AttributeError):
        return None


def why_not_greeted(error: ServerError) -> str:
    """Return what it means that a server refused ``HELLO``.

    The error's own text is not in it: an old server repeats the whole command, with the password.
    """
    if error.code in MEANINGS:
        return MEANINGS[error.code][1]
    if "unknown command" in error.text.lower():
        return "the server is too old, and has no HELLO: use Valkey, or Redis 6.2 or newer"
    return f"the server refused HELLO 3 ({error.code or 'without a code'})"


def why_unfit(hello: dict[str, str], *, sentinel: bool = False) -> str | None:
    """Return why a server can't be used, by what its ``HELLO`` says; None if it can.

    Args:
        hello: see `read_hello`.
        sentinel: whether it must be a sentinel.
    """
    mode = hello.get("mode", "standalone")
    if sentinel and mode != "sentinel":
        return "this is no sentinel: write valkey:// in the URL, or name the sentinels' port, 26379"
    if not sentinel and mode == "sentinel":
        return "this is a sentinel: write valkey+sentinel:// and the service's name in the URL"
    if mode == "cluster":
        return MEANINGS["MOVED"][1]
    version = re.match(r"(\d+)\.(\d+)", hello.get("version", ""))
    if version is not None and (int(version[1]), int(version[2])) < _OLDEST:
        return f"the server is Redis {version[0]}: use Valkey, or Redis 6.2 or newer"
    return None


def is_primary(hello: dict[str, str]) -> bool:
    """Return whether the server takes writes, as far as it knows."""
    return hello.get("role", "master") == "master"


def why_unsafe(info: dict[str, str]) -> str | None:
    """Return why a log can't be kept with these settings of the server; None if it can."""
    policy = info.get("maxmemory_policy", _EVICTS_NOTHING)
    if policy != _EVICTS_NOTHING and info.get("maxmemory", "0") != "0":
        return (
            f"the server's maxmemory-policy is {policy}: when its memory is full it would delete "
            "events, leases and idempotency keys; set maxmemory-policy noeviction"
        )
    return None


def warnings(info: dict[str, str]) -> list[str]:
    """Return what the operator of the server should know, a sentence each."""
    found = []
    policy = info.get("maxmemory_policy")
    if policy is None:
        found.append("the server does not say its maxmemory-policy: it must be noeviction")
    elif policy != _EVICTS_NOTHING:
        found.append(
            f"the server's maxmemory-policy is {policy}: set noeviction, for as soon as it has a "
            "maxmemory it would delete events"
        )
    if info.get("aof_enabled") == "0":
        found.append(
            "the server has no append-only file: if it crashes, events since its last snapshot are "
            "lost, and clients are told of a gap; set appendonly yes"
        )
    elif "aof_enabled" not in info:
        found.append("the server does not say whether it keeps its data on a disk")
    return found
