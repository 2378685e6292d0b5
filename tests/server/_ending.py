"""Middleware that ends responses by itself, and exports that end in every way.

``WRAPPERS[name](app)`` is `app` behind middleware; ``MADE[name](on_close=...)`` is a stream that
ends for the reason ``reason_of(name)``.
"""

import copy

import trio
from _middleware import (
    AddsAHeader,
    Copies,
    Counts,
    HoldsTheLastBack,
    PassesOn,
    RewritesAlways,
    Wrapping,
    compresses,
    is_body,
    queues_three_times,
)
from starlette.responses import Response

from flowstream import Limits, csv, ndjson, raw, sse

ROWS = [[n, f"name {n}"] for n in range(50)]


# -- what ends a response by itself ------------------------------------------------------------


class Ending(Wrapping):
    """Gives the response an end of its own when the application returns."""

    served = 0  # responses that all of these have ended

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await self.serve(scope, receive, send)
        Ending.served += 1


class EndsByItself(Ending):
    """Sends on what comes, and knows the end when the application has returned."""

    async def serve(self, scope, receive, send):
        ended = False

        async def pass_on(message):
            nonlocal ended
            ended = is_body(message) and not message.get("more_body")
            await send(message)

        await self.app(scope, receive, pass_on)
        if not ended:
            await send({"type": "http.response.body", "body": b""})


class Joins(Ending):
    """Joins three messages to one, and sends the rest with the end."""

    async def serve(self, scope, receive, send):
        parts = []

        async def collect_some(message):
            if not is_body(message):
                await send(message)
                return
            parts.append(message["body"])
            if len(parts) == 3:
                await send({**message, "body": b"".join(parts), "more_body": True})
                parts.clear()

        await self.app(scope, receive, collect_some)
        await send({"type": "http.response.body", "body": b"".join(parts), "more_body": False})


class Buffers(Ending):
    """Sends all at once when it has all, with its length."""

    async def serve(self, scope, receive, send):
        head, parts = {}, []

        async def keep(message):
            if is_body(message):
                parts.append(message["body"])
            else:
                head.update(message)

        await self.app(scope, receive, keep)
        body = b"".join(parts)
        length = (b"content-length", b"%d" % len(body))
        await send({**head, "headers": [*head["headers"], length]})
        await send({"type": "http.response.body", "body": body})


class SendsAndEndsFromATask(Ending):
    """Has a queue, and a task that sends from it and knows the end when the queue is closed."""

    async def serve(self, scope, receive, send):
        put, get = trio.open_memory_channel(5)

        async def send_on():
            async for message in get:
                await send({**message, "more_body": True} if is_body(message) else message)
            await send({"type": "http.response.body"})

        async with trio.open_nursery() as nursery, put:
            nursery.start_soon(send_on)
            await self.app(scope, receive, put.send)


class AddsTrailers(Ending):
    """Says what the sum was, behind the body."""

    async def serve(self, scope, receive, send):
        async def announce(message):
            if not is_body(message):
                message = {**message, "trailers": True}
            await send(message)

        await self.app(scope, receive, announce)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})


class CopiesTheScope(Ending):
    """Gives the application a deep copy of all that it was told."""

    async def serve(self, scope, receive, send):
        await EndsByItself(self.app)(copy.deepcopy(scope), receive, send)


class BuffersAsStarletteDoes(PassesOn):
    """Reads the body of the response, and makes another response of it."""

    async def dispatch(self, request, call_next):
        answer = await call_next(request)
        body = b"".join([part async for part in answer.body_iterator])
        headers = {key: value for key, value in answer.headers.items() if key != "content-length"}
        return Response(body, answer.status_code, headers)


WRAPPERS = {
    "nothing": lambda app: app,
    "BaseHTTPMiddleware": PassesOn,
    "three queues": queues_three_times,
    "gzip": compresses,
    "gzip outside": lambda app: compresses(PassesOn(app)),
    "gzip inside": lambda app: PassesOn(compresses(app)),
    "adds a header": lambda app: AddsAHeader(PassesOn(app)),
    "rewrites": lambda app: RewritesAlways(PassesOn(app)),
    "copies": lambda app: Copies(EndsByItself(app)),
    "counts": lambda app: Counts(PassesOn(app)),
    "holds the last back": lambda app: HoldsTheLastBack(PassesOn(app)),
    "ends by itself": EndsByItself,
    "copies the scope": CopiesTheScope,
    "joins": Joins,
    "buffers": Buffers,
    "buffers as Starlette does": BuffersAsStarletteDoes,
    "a task": SendsAndEndsFromATask,
}
# So often one of these has ended, when each was asked once.
ENDED = 7


# -- how a stream ends -------------------------------------------------------------------------


async def whole():
    for row in ROWS:
        yield row


async def fails():
    for row in ROWS:
        yield row
    raise OSError("the database has gone")


async def is_unwritable():
    for row in ROWS:
        yield row
    yield object


async def goes_on():
    for row in ROWS:
        yield row
    await trio.sleep_forever()


async def blobs():
    yield b"half"
    raise OSError("the disk has gone")


async def floods():
    while True:
        yield ["x" * 1000]


def stops(**options):
    async def rows():
        for row in ROWS:
            yield row
        stream.stop()
        await trio.sleep_forever()

    stream = csv(rows, **options)
    return stream


MADE = {
    "error": lambda **options: csv(fails, **options),
    "error: an item": lambda **options: csv(is_unwritable, **options),
    "error: raw": lambda **options: raw(blobs, **options),
    "error: no controls": lambda **options: ndjson(fails, controls=False, **options),
    "error: SSE without controls": lambda **options: sse(fails, controls=False, **options),
    "max_duration": lambda **options: csv(goes_on, limits=Limits(max_duration=0.02), **options),
    "max_bytes": lambda **options: csv(whole, limits=Limits(max_bytes=300), **options),
    "stopped": stops,
}


def reason_of(name):
    return name.partition(":")[0]
