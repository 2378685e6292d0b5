"""Middleware of every temper, put around `send`: what direct writes have to be exact behind."""

import random

import trio
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware


def is_body(message):
    return message["type"] == "http.response.body"


class Wrapping:
    """Middleware that is a function `change(message, send)` of one response."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        change = self.start()

        async def changing(message):
            await change(message, send)

        await self.app(scope, receive, changing)


class AddsAHeader(Wrapping):
    def start(self):
        async def change(message, send):
            if not is_body(message):
                message["headers"] = [*message["headers"], (b"x-added", b"yes")]
            await send(message)

        return change


class RewritesAlways(Wrapping):
    def start(self):
        async def change(message, send):
            if is_body(message):
                message["body"] = message["body"].upper()
            await send(message)

        return change


class Copies(Wrapping):
    """Passes on messages of its own with bodies that are equal, and buffers of another type."""

    def start(self):
        async def change(message, send):
            if is_body(message):
                message = {**message, "body": bytearray(message["body"])}
            await send(message)

        return change


class HoldsTheLastBack(Wrapping):
    """As one does that wants to know which is the last."""

    def start(self):
        held = []

        async def change(message, send):
            if is_body(message):
                held.append(message)
                if message["more_body"] and len(held) < 2:
                    return
            for one in held[: None if not message.get("more_body", True) else 1]:
                await send(one)
                held.remove(one)
            if not is_body(message):
                await send(message)

        return change


class HoldsSomeBack(Wrapping):
    """Now and then, so that the next goes out behind the one that was held."""

    def start(self):
        held, dice = [], random.Random(1)

        async def change(message, send):
            if is_body(message) and message["more_body"] and dice.random() < 0.3:
                held.append(message)
                return
            while held:
                await send(held.pop(0))
            await send(message)

        return change


class JoinsSome(Wrapping):
    """Joins each one that is short to the next."""

    def start(self):
        parts = []

        async def change(message, send):
            if not is_body(message):
                await send(message)
                return
            parts.append(message["body"])
            if message["more_body"] and len(message["body"]) < 100:
                return
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            await send({**message, "body": data})

        return change


class SendsFromATask:
    """Has a queue, and a task that sends from it in its own time, joining what has piled up."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        put, get = trio.open_memory_channel(5)
        dice = random.Random(2)

        async def send_on():
            async for message in get:
                await trio.sleep(dice.choice([0, 0, 0.001]))
                await send(message)

        async with trio.open_nursery() as nursery, put:
            nursery.start_soon(send_on)
            await self.app(scope, receive, put.send)


class EndsTwice(Wrapping):
    """Adds a last word of its own, in a message of its own."""

    def start(self):
        async def change(message, send):
            if is_body(message) and not message["more_body"]:
                await send({**message, "body": b"<the end>", "more_body": True})
            await send(message)

        return change


class PassesOn(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


# What has to see every message to do its work: passed by, it would do another.


class RewritesSome(Wrapping):
    """A redactor: the same object, if it finds nothing."""

    def start(self):
        async def change(message, send):
            if is_body(message) and b"7" in message["body"]:
                message = {**message, "body": message["body"].replace(b"7", b"*")}
            await send(message)

        return change


class Counts(Wrapping):
    """Tells at the end how many bytes there were."""

    def start(self):
        size = 0

        async def change(message, send):
            nonlocal size
            if is_body(message):
                size += len(message["body"])
                if not message["more_body"]:
                    await send({**message, "body": b"<%d bytes>" % size, "more_body": True})
            await send(message)

        return change


class EndsEarly(Wrapping):
    """Ends the body at a certain byte, and throws away what follows."""

    def start(self):
        left = 3000

        async def change(message, send):
            nonlocal left
            if is_body(message):
                if left <= 0:
                    return
                data = message["body"][:left]
                left -= len(data)
                message = {**message, "body": data, "more_body": message["more_body"] and left > 0}
            await send(message)

        return change


class Swallows(Wrapping):
    """Lets through nothing that has a certain letter in it, byte by byte."""

    def start(self):
        async def change(message, send):
            if is_body(message):
                message = {**message, "body": message["body"].replace(b"3", b"")}
            await send(message)

        return change


def compresses(app):
    return GZipMiddleware(app, minimum_size=1)


def queues_three_times(app):
    return PassesOn(PassesOn(PassesOn(app)))


# Exact though direct=True is said: they pass on all or some messages, and what they hold back,
# add or change is seen at the connection.
SEEN = {
    "nothing": lambda app: app,
    "three queues": queues_three_times,
    "gzip": compresses,
    "adds a header": AddsAHeader,
    "rewrites always": RewritesAlways,
    "copies": Copies,
    "holds the last back": HoldsTheLastBack,
    "holds some back": HoldsSomeBack,
    "joins some": JoinsSome,
    "sends from a task": SendsFromATask,
    "ends twice": EndsTwice,
}
# Exact while nothing is said.
UNSEEN = {
    "rewrites some": RewritesSome,
    "counts": Counts,
    "ends early": EndsEarly,
    "swallows": Swallows,
}
# Behind these alone, direct writes are made once they are asked for.
TRANSPARENT = ("nothing", "three queues", "adds a header", "sends from a task")
