"""Which conversations there are: each is made from a seed and a number, always the same one.

About half of what libraries write is damaged; what is odd by itself is put together of valid
parts, since damage alone seldom gets past a checksum-like thing such as HPACK.
"""

import functools
import random

from fuzzing import tls
from fuzzing.conversation import ENDS, Conversation, Read, Send, Turns, sends
from fuzzing.damage import cut, damaged, shuffled
from fuzzing.http1 import http1, odd_http1, upgrade_to_http2
from fuzzing.http2 import PREFACE, http2, odd_http2
from fuzzing.settings import patient, settled
from fuzzing.upgrades import downgraded, upgraded
from fuzzing.uploads import (
    odd_upload,
    odd_upload_http2,
    smuggled,
    upload,
    upload_http2,
)
from fuzzing.websockets import extended, odd_websocket, websocket


def noise(rng):
    """Nothing in particular."""
    start = rng.choice((b"", b"", PREFACE, PREFACE[:11], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"))
    return [start, rng.randbytes(rng.choice((1, 9, 100, 3000)))]


WRITTEN = (http1, http2, websocket, upgrade_to_http2)
"""What libraries write: made once, since it is made slowly."""


@functools.cache
def written(kind, number):
    """Return what a library writes."""
    return kind(random.Random(f"{kind.__name__}/{number}"))


def some_written(rng):
    """Return what one of the libraries writes."""
    return written(rng.choice(WRITTEN), rng.randrange(100))


# {what makes the parts: how often}
DAMAGED = {
    some_written: 24,
    odd_http1: 6,
    odd_http2: 12,
    odd_websocket: 6,
    noise: 3,
    extended: 8,
    settled: 8,
    odd_upload_http2: 6,
}
"""Parts that may be damaged further."""

WHOLE = {
    odd_upload: 5,
    smuggled: 4,
    downgraded: 2,
    upgraded: 6,
    upload: 5,
    upload_http2: 5,
    patient: 2,
}
"""Parts, or steps, that must stay as they are: of what has to be refused, or answered."""

ANSWERED = {extended, odd_websocket}
"""Those whose first part is answered before the client goes on."""

KINDS = {**DAMAGED, **WHOLE}
_NAMES, _WEIGHTS = tuple(KINDS), tuple(KINDS.values())
TCP, OVER_TLS, WRONG_TLS = 0.06, 0.2, 0.5
"""The shares of those over TCP, of those over TLS, and of those whose TLS may be wrong."""


def some_parts(rng):
    """Return the parts of any conversation that may be damaged."""
    kinds, weights = tuple(DAMAGED), tuple(DAMAGED.values())
    return rng.choices(kinds, weights)[0](rng)


def kind_of(seed, number):
    """Return what makes this conversation."""
    return random.Random(f"{seed}/{number}").choices(_NAMES, _WEIGHTS)[0]


def conversation(seed, number):
    """Return a conversation, always the same for a seed and a number."""
    name = f"{seed}/{number}"
    rng = random.Random(name)
    kind = rng.choices(_NAMES, _WEIGHTS)[0]
    secure = None
    if rng.random() < OVER_TLS:
        secure = tls.way(rng, right=rng.random() > WRONG_TLS)
    return _said(rng, kind, f"{name} {kind.__name__}", secure)


def _said(rng, kind, name, secure):
    made, answers = kind(rng), 0
    if isinstance(made, tuple) and made and isinstance(made[-1], int):
        made, answers = made
    end = "wait" if answers else rng.choice(ENDS)
    if secure is not None and answers and not _fits(secure, made):
        answers = 0
    if kind in DAMAGED:
        parts = made
        if rng.random() < 0.4:
            parts = shuffled(rng, parts, some_parts)
        data = b"".join(parts)
        if rng.random() < 0.5:
            parts = cut(rng, damaged(rng, data)) or [data]
        elif rng.random() < 0.4:
            parts = cut(rng, data)
        if kind in ANSWERED and rng.random() < 0.8:
            parts = [parts[0], Read(), *parts[1:]]
    else:
        parts = [one.data if isinstance(one, Send) else one for one in made]
    steps = []
    for part in parts:
        if not isinstance(part, bytes):
            steps.append(part)
            continue
        steps += sends(*(cut(rng, part) if kind in WHOLE and rng.random() < 0.3 else [part]))
        if count := rng.choice((0, 0, 1, 2, 8)):
            steps.append(Turns(count))
    if rng.random() < 0.1:
        steps.insert(rng.randrange(len(steps) + 1), Read())
    return Conversation(
        name,
        tuple(steps),
        end=end,
        tcp=rng.random() < TCP,
        tls=secure,
        reads=bool(answers) or rng.random() < 0.8,
        answers=answers,
    )


def _fits(secure, made):
    """Return whether this can be answered over this TLS: nothing is wrong, and ALPN fits."""
    first = made[0].data if isinstance(made[0], Send) else made[0]
    wanted = "h2" if first.startswith(PREFACE) else "http/1.1"
    agreed = next((one for one in ("h2", "http/1.1") if one in secure.alpn), "http/1.1")
    return not secure.faults and not secure.inside and agreed == wanted
