"""Shaping: two producers merged, slowed down, timed, in batches, with progress.

    flowstream serve examples/16_shaped.py:app
    curl -N http://127.0.0.1:8000/letters

Wrappers go around any source, and around each other. /lines has ten letters a line;
/silent is a 504, since nothing comes in time.
"""

import string

import msgspec
import trio
from quart_trio import QuartTrio

from flowstream import sse
from flowstream.event_types import EventTypes
from flowstream.quart import Flowstream
from flowstream.sources import Progress, batched, merge, progress, throttle, with_timeout

app = QuartTrio(__name__)
Flowstream(app)


class Letter(msgspec.Struct, tag="letter"):
    """What a stream may send is said by types like this one."""

    text: str


letters = EventTypes(Letter, Progress)  # what /letters may send; see letters.json_schema()


async def spell(alphabet, pause):
    for letter in alphabet:
        yield Letter(letter)
        await trio.sleep(pause)


@app.get("/letters")
async def both():
    source = merge(spell(string.ascii_lowercase, 0.01), spell(string.ascii_uppercase, 0.3))
    return sse(progress(throttle(source, per_second=20, burst=5), total=52), events=letters)


@app.get("/lines")
async def lines():
    source = with_timeout(spell(string.ascii_lowercase, 0.1), first=2, between=1)
    return sse(batched(source, max_items=10, max_wait=0.5))


@app.get("/silent")
async def silent():
    async def nothing(out):
        await trio.sleep_forever()

    return sse(with_timeout(nothing, first=2), prime=10)
