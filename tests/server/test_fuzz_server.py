"""Whatever clients send, the server goes on, leaves nothing behind and has nothing to report.

What holds after each batch of conversations is in `fuzzing/harness.py`. How many there are is
FUZZ_CONVERSATIONS: few unless asked for more.
"""

import itertools
import os
import secrets
import time
from functools import partial

import hpack
import hypercorn.trio
import pytest
from fuzzing.conversation import ENDS, TLS, Conversation, Turns, sends
from fuzzing.harness import BATCH, bombard, fuzzed, outcome, run
from fuzzing.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
)
from fuzzing.kinds import WRITTEN, conversation, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.chaos

SEED = "flowstream"
CONVERSATIONS = int(os.environ.get("FUZZ_CONVERSATIONS", "2000"))
PARTS = 4
CUT_AT_MOST = 500


@pytest.fixture
def start(tmp_path, monkeypatch, certificate):
    """What starts a server."""
    return partial(fuzzed, monkeypatch, tmp_path, certificate)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(600)
def test_odd_conversations(part, start):
    """Thousands of clients say what they should not, and the server is as it was before."""
    numbers = range(part * CONVERSATIONS // PARTS, (part + 1) * CONVERSATIONS // PARTS)
    start = partial(start, access=part % 2 == 0)
    run(partial(bombard, start, (conversation(SEED, number) for number in numbers)))


def cut_at(name, data, at):
    """Return a conversation that ends before this byte."""
    steps = sends(data[:at], data[at : at + 1]) if at % 2 else sends(data[:at])
    steps += (Turns(at % 4),)
    return Conversation(f"{name}, cut at {at}", steps, end=ENDS[at % 3])


def test_cut_at_every_point(start):
    """A whole conversation of each kind, ended after each of its bytes."""
    said = []
    for kind in WRITTEN:
        data = b"".join(written(kind, 1))[:CUT_AT_MOST]
        said += [cut_at(kind.__name__, data, at) for at in range(len(data))]
    run(partial(bombard, start, said))


@pytest.mark.parametrize("version", [1.2, 1.3])
def test_a_handshake_cut_at_every_point(start, version):
    """A client leaves, or stops, after each byte of its part of TLS's handshake."""
    request = sends(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = [
        Conversation(
            f"record {number}, cut at {at}",
            request,
            end=("close", "stall", "half-close", "reset")[at % 4],
            tls=TLS(version=version, faults=((number, "stop", at),)),
        )
        for number, most in ((0, 530), (1, 60), (2, 60), (3, 60))
        for at in range(0, most, 1 if number else 3)
    ]
    run(partial(bombard, start, said))


UPGRADE = (
    b"GET /e HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BEGINNINGS = [b"", b"GET /e HTTP/1.1\r\n", UPGRADE, PREFACE, PREFACE + frame(SETTINGS, 0, 0)]

noises = st.builds(
    lambda start, pieces, end: Conversation("made by Hypothesis", sends(start, *pieces), end=end),
    st.sampled_from(BEGINNINGS),
    st.lists(st.binary(max_size=40), max_size=4),
    st.sampled_from(ENDS),
)


@given(st.lists(noises, min_size=40, max_size=40))
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes(start, said):
    """Bytes that Hypothesis thinks of, behind the beginnings of conversations."""
    run(partial(bombard, start, said))


def fatal_to_hypercorn():
    """Return conversations that end plain Hypercorn's worker, as Hypercorn 0.18 is."""
    encode = hpack.Encoder().encode
    fields = [(b":scheme", b"http"), (b":authority", b"localhost")]
    beginning = PREFACE + frame(SETTINGS, 0, 0)
    whole, open_ended = END_HEADERS | END_STREAM, END_HEADERS
    bad_path = encode([(b":method", b"GET"), (b":path", b"/\xe9"), *fields])
    no_path = encode([(b":method", b"CONNECT"), (b":authority", b"localhost")])
    upload = hpack.Encoder().encode([(b":method", b"POST"), (b":path", b"/a"), *fields])
    return {
        "a path that is not ASCII": [beginning, frame(HEADERS, whole, 1, bad_path)],
        "CONNECT without a path": [beginning + frame(HEADERS, whole, 1, no_path)],
        "data behind the response": [
            beginning + frame(HEADERS, open_ended, 1, upload),
            frame(DATA, END_STREAM, 1, b"late"),
        ],
        "a message before the acceptance": [UPGRADE + b"\x81\x81\0\0\0\0x"],
    }


@pytest.mark.parametrize("name", fatal_to_hypercorn())
def test_the_harness_sees_a_worker_end(name, start):
    """Plain Hypercorn's worker is ended by one conversation, and this is noticed; ours goes on."""
    steps = []
    for step in sends(*fatal_to_hypercorn()[name]):
        steps += [step, Turns(8)]
    said = Conversation(name, tuple(steps), end="wait")
    outcomes = []

    async def both():
        outcomes.append(await outcome(partial(start, serve=hypercorn.trio.serve), [said]))
        outcomes.append(await outcome(start, [said]))

    run(both)
    (plain, _), (ours, _) = outcomes
    assert plain is not None
    assert not plain.subgroup(AssertionError), "the worker itself has ended"
    assert ours is None


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_soak(start, record_property):
    """More of the same, from a new seed, for as long as one likes."""
    seed = os.environ.get("FUZZ_SEED", secrets.token_hex(4))
    end = time.monotonic() + 60 * float(os.environ.get("FUZZ_MINUTES", "3"))
    done = 0
    while time.monotonic() < end:
        numbers = itertools.islice(itertools.count(done), 20 * BATCH)
        run(partial(bombard, start, (conversation(seed, number) for number in numbers)))
        done += 20 * BATCH
        record_property("conversations", f"{done} of seed {seed}")
