"""The scripts that a log runs in the server, put together from the files in ``lua/``.

A call is one script, so it is one step of the server: nobody sees half of it, and it is undone by
nothing but the loss of the server's memory. A script is the files it is made of, one behind the
other: `life` first, which sees whether the server may have lost something; the call itself last.
The server knows a script by the SHA-1 of its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from importlib.resources import files

from flowstream.logs._append_arguments import (
    FORGET_SECONDS,
    LATEST_BYTES,
    LATEST_KEYS,
    PAGE_BYTES,
    TOKEN_EVENTS,
)
from flowstream.logs._epochs import EPOCHS_KEPT

# Bytes of the bodies that go with a hint. By default a server ends a connection that lets 32 MiB of
# hints wait, or 8 MiB for a minute.
HINT_BYTES = 4 << 20

_VALUES = {
    "EPOCHS_KEPT": EPOCHS_KEPT,
    "FORGET_SECONDS": int(FORGET_SECONDS),
    "HINT_BYTES": HINT_BYTES,
    "LATEST_BYTES": LATEST_BYTES,
    "LATEST_KEYS": LATEST_KEYS,
    "PAGE_BYTES": PAGE_BYTES,
    "TOKEN_EVENTS": TOKEN_EVENTS,
}

# {name of a script: the files before its own}
PARTS: dict[str, tuple[str, ...]] = {
    "adopt": ("life",),
    "append": ("life", "topic", "retention", "entries"),
    "beat": ("life", "topic", "lease"),
    "claim": ("life", "topic", "lease"),
    "delete": ("life", "topic"),
    "end": ("life", "topic", "retention", "entries", "lease"),
    "heads": ("life", "topic"),
    "inspect": ("life", "topic"),
    "latest": ("life", "topic"),
    "leases": ("life", "topic", "lease"),
    "names": ("life",),
    "read": ("life", "topic"),
    "sweep": ("life", "topic", "retention"),
    "trim": ("life", "topic", "retention"),
}


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and what the server knows it by."""

    name: str
    text: str = field(repr=False)
    sha: str


@cache
def script(name: str) -> Script:
    """Return the script of that name, one of `PARTS`."""
    folder = files("flowstream.logs.valkey") / "lua"
    whole = "\n".join(
        (folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*PARTS[name], name)
    )
    text = re.sub(r"@([A-Z_]+)@", lambda found: str(_VALUES[found[1]]), whole)
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def scripts() -> list[Script]:
    """Return all scripts."""
    return [script(name) for name in PARTS]
