"""What a source of tokens gives a client that reads lines of JSON."""

from __future__ import annotations

import json
from typing import Any

from flowstream import ndjson
from flowstream.testing import collect


def values(body: bytes) -> list[Any]:
    """Return the values of the lines of a body."""
    return [json.loads(line) for line in body.splitlines() if line]


async def whole(source: Any) -> list[Any]:
    """Return what a client gets of `source`, without the `end` of a whole stream."""
    answer = await collect(ndjson(source))
    assert answer.status == 200
    events = values(answer.body)
    return events[:-1] if events[-1]["type"] == "end" else events


def token(data: str) -> dict[str, Any]:
    """Return a token as it is written."""
    return {"type": "token", "data": data}
