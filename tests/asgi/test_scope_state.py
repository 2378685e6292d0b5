"""What a stream reads in ``scope["state"]``, where others may have put something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from flowstream import Topic, raw
from flowstream.asgi._advice import warn_of_workers
from flowstream.asgi._carrier import carrier_of
from flowstream.asgi._direct_write import NotDirect, direct_write_of

STATES: list[Any] = [None, SimpleNamespace(user="ann"), [], "", 7]


@pytest.mark.parametrize("state", STATES, ids=repr)
def test_a_state_that_is_no_mapping_has_nothing_of_ours(state: Any) -> None:
    """Each reader of the state finds nothing in one that is no mapping, and does not raise."""
    assert carrier_of({"state": state}) is None
    assert direct_write_of({"state": state}).why_not is NotDirect.OTHER_SERVER
    warn_of_workers({"state": state}, Topic("t")._feed)


@pytest.mark.parametrize("state", STATES, ids=repr)
async def test_a_stream_is_served_with_a_state_that_is_no_mapping(state: Any) -> None:
    """A stream goes out whole under a server whose state is no mapping."""
    sent: list[Any] = []

    async def receive() -> Any:
        await trio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "state": state,
    }
    await raw(pieces())(scope, receive, send)
    assert b"".join(message.get("body", b"") for message in sent) == b"ab"
    assert not sent[-1].get("more_body")
