"""The fuzzer can fail: with one defence of the server switched off, it says so soon."""

import math
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from fuzzing.harness import fuzzed, in_batches, outcome, reason, run
from fuzzing.http1 import odd_http1
from fuzzing.kinds import conversation, kind_of, some_written
from fuzzing.settings import settled
from fuzzing.upgrades import downgraded, upgraded
from fuzzing.uploads import odd_upload, odd_upload_http2, smuggled
from fuzzing.websockets import extended

from flowstream.server import _connection, _frame_pieces, _http_connection, _inbox, _listening
from flowstream.server._hypercorn import ReceiveBuffer
from flowstream.server.http1 import _http1
from flowstream.server.http2 import _http2
from flowstream.server.log import _access_log
from flowstream.server.websocket import _message_bound

pytestmark = pytest.mark.chaos

SEED = "faults"


@dataclass(frozen=True)
class Fault:
    """A defence that is switched off.

    Attributes:
        plant: does it, with pytest's monkeypatch; may return what ends it.
        sees: what the fuzzer says then, a part of it.
        kinds: of the conversations that are had; the others would only take time.
        batch: conversations at once. Memory needs more of them, in a process that has some to
            spare from tests before.
    """

    plant: Callable[[pytest.MonkeyPatch], Callable[[], object] | None]
    sees: str
    kinds: tuple
    batch: int = 50


def no_stall_bound(patch):
    """Let a client that takes nothing take its time."""
    usual = _connection.stall_bound
    patch.setattr(
        _connection, "stall_bound", lambda *a, **k: usual(*a, **k)._replace(seconds=math.inf)
    )


def no_idle_timeout(patch):
    """Keep connections on which nothing is asked for, once a protocol has them."""

    async def wait(_):
        await trio.sleep_forever()

    patch.setattr(_http_connection.HTTPConnection, "_close_idle", wait)


def no_message_bound(patch):
    """Let a WebSocket message be of any size."""
    usual = _message_bound.MessageBound.__init__
    patch.setattr(_message_bound.MessageBound, "__init__", lambda self, _: usual(self, 1 << 30))


def preface_anywhere(patch):
    """Take the preface of HTTP/2 behind a request of HTTP/1.1."""
    always = property(lambda _: True, lambda *_: None)
    patch.setattr(_http1.HTTP1, "is_fresh", always, raising=False)


def lost_descriptors(patch):
    """Leave a descriptor open with each connection."""
    usual, kept = _listening.Listener.accept_nowait, []

    def accept(self):
        if (found := usual(self)) is not None:
            kept.append(socket.socket())
        return found

    patch.setattr(_listening.Listener, "accept_nowait", accept)
    return lambda: [one.close() for one in kept]


def lost_tasks(patch):
    """Leave a task behind with each connection that has spoken."""
    usual = _http_connection.HTTPConnection._speak

    async def speak(self, *arguments):
        self._connections.start(trio.sleep_forever)
        await usual(self, *arguments)

    patch.setattr(_http_connection.HTTPConnection, "_speak", speak)


def all_settings_kept(patch):
    """Keep settings that nobody knows, in frames of any number of them."""
    patch.setattr(_http2, "keep_little", lambda *_: None)
    patch.setattr(_frame_pieces, "_MOST_SETTINGS", 1 << 16)


def patching(owner, name, value):
    """Return what replaces one name."""
    return lambda patch: patch.setattr(owner, name, value)


HTTP1 = (odd_http1, some_written)
FAULTS = {
    "what h2 keeps of settings": Fault(all_settings_kept, "MiB are taken", (settled,), batch=500),
    "the clock of a body": Fault(
        patching(_inbox.Inbox, "_wait_for_body", _inbox.Inbox._wait), "is kept", (odd_upload,)
    ),
    "the bound of a message": Fault(no_message_bound, "a message of", (extended,)),
    "strict lines": Fault(
        patching(_http1, "StrictLines", lambda _: ReceiveBuffer()), "had to be refused", (smuggled,)
    ),
    "the rules of requests": Fault(
        patching(_http1, "judge_http1", lambda head: head), "the log says", (odd_http1,)
    ),
    "the escape of the log": Fault(
        patching(_access_log, "escaped", lambda text: text), "access log", (odd_http1,)
    ),
    "the bound of a stalled client": Fault(no_stall_bound, "is kept", HTTP1),
    "the bound of an idle client": Fault(no_idle_timeout, "is kept", (odd_upload_http2,)),
    "where a preface may be": Fault(
        preface_anywhere, "had to be refused|illegal request line", (downgraded, upgraded)
    ),
    "the close of descriptors": Fault(lost_descriptors, "descriptors are left", (odd_upload,)),
    "the end of tasks": Fault(lost_tasks, "tasks are left", (odd_upload,)),
}
WITHIN = 4000
"""Conversations of all kinds, of which those of a fault's kinds are had."""


def of(kinds):
    """Yield the conversations of these kinds."""
    for number in range(WITHIN):
        if kind_of(SEED, number) in kinds:
            yield conversation(SEED, number)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name, tmp_path, monkeypatch, certificate):
    """A planted fault is seen within `WITHIN` conversations."""
    fault = FAULTS[name]
    with monkeypatch.context() as patch:
        undo = fault.plant(patch)
        found = []

        async def search():
            start = partial(fuzzed, patch, tmp_path, certificate)
            found.extend(await outcome(start, *in_batches(of(fault.kinds), size=fault.batch)))

        run(search)
        if undo is not None:
            undo()
    failure, batch = found
    assert failure is not None, "nobody has seen it"
    assert re.search(fault.sees, reason(failure))
    print(f"seen in {batch[0].name} to {batch[-1].name}: {reason(failure)[:200]}")  # noqa: T201
