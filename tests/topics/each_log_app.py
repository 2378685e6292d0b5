"""One app in three frameworks, for tests of topics on each log: `Worker` serves it.

The app itself is `App.answer`, which knows no framework. Two workers of one log are two `App`s,
each with topics of its own. In memory they are one app, since memory is not shared.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

import trio
from each_log import Store
from fastapi import FastAPI
from quart import Response as QuartResponse
from quart import request as quart_request
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flowstream import (
    Block,
    CatchUp,
    Conflate,
    DropOldest,
    Event,
    LatestByKey,
    Replay,
    Sample,
    StreamResponse,
    Topic,
    Topics,
    log_statistics,
    ndjson,
    sse,
)
from flowstream.quart import Flowstream
from flowstream.starlette import lifespan, response
from flowstream.testing import StreamClient, collect, open_lifespan, open_stream

POLICIES = {
    "block": Block(timeout=60),
    "drop": DropOldest(),
    "conflate": Conflate(),
    "sample": Sample(every=10),
    "catch-up": CatchUp(),
}


class App:
    """Topics, and what can be done with them over HTTP.

    Attributes:
        numbers: what the snapshot of the topic `numbers` has.
        lost: what `publish_soon` lost.
    """

    def __init__(self) -> None:
        replay = Replay(items=5000)
        self.numbers: list[int] = []
        self.news = Topic("news", replay=replay)
        self.prices = Topic("prices", replay=replay, snapshot=LatestByKey())
        self.added = Topic("numbers", replay=replay, snapshot=self._state)
        self.who = Topic("who", snapshot=LatestByKey())
        self.rooms = Topics(
            lambda name: Topic(name, replay=replay, presence=self.who),
            authorize=lambda name, user: bool(user),
            subject=lambda name, user: user,
        )
        self.named = {
            "news": self.news,
            "prices": self.prices,
            "numbers": self.added,
            "who": self.who,
        }
        self.lost: list[Any] = []

    async def _state(self) -> Event:
        # Asked first, so that what is published meanwhile comes behind it.
        position = await self.added.position()
        return Event(list(self.numbers), id=position)

    async def start(self) -> None:
        """Bind the topics to the log of the app that is around this."""
        for topic in self.named.values():
            await topic.position()

    async def answer(self, path: str, query: dict[str, str], body: Any) -> StreamResponse | Any:
        """Do what a request asks for."""
        what, _, name = path.strip("/").partition("/")
        if what == "room":
            return sse(await self.rooms.open(name, query.get("user", "")))
        if what in ("sse", "ndjson"):
            make = {"sse": sse, "ndjson": ndjson}[what]
            topics = [self.named[one] for one in name.split("+")]
            options: dict[str, Any] = {}
            if "policy" in query:
                options = {"policy": POLICIES[query["policy"]], "buffer": 4}
            return make(topics if len(topics) > 1 else topics[0], **options)
        if what == "publish":
            return await self.named[name].publish(body.pop("data"), **body)
        if what == "publish-many":
            return await self.named[name].publish_many(body)
        if what == "publish-soon":
            self.named[name].publish_soon(
                body, on_lost=lambda event, error: self.lost.append(error)
            )
            return None
        if what == "add":
            return await self.added.publish(body)
        if what == "position":
            return await self.named[name].position()
        if what == "delete":
            return await self.named[name].delete()
        if what == "revoke":
            return await self.rooms.revoke_subject(body)
        if what == "people":
            return self.rooms[name].total_subscribers
        if what == "statistics":
            whole, topic = log_statistics(), self.named[name].statistics().log
            return [one and asdict(one) for one in (whole, topic)]
        raise LookupError(path)


def quart_app(app: App, store: Store) -> Any:
    """Return it for Quart-Trio."""
    quart = QuartTrio(__name__)
    Flowstream(quart, log=store.url, namespace=store.namespace)
    quart.before_serving(app.start)

    @quart.route("/<path:path>", methods=["GET", "POST"])
    async def view(path: str) -> Any:
        query = dict(quart_request.args)
        answer = await app.answer(path, query, await quart_request.get_json(silent=True))
        if isinstance(answer, StreamResponse):
            return answer
        return QuartResponse(json.dumps(answer), content_type="application/json")

    return quart


def _own_lifespan(app: App, store: Store) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def own(framework: Any) -> AsyncIterator[None]:
        async with lifespan(framework, log=store.url, namespace=store.namespace):
            await app.start()
            yield

    return own


async def _view(app: App, request: Request) -> Any:
    body = await request.body()
    path, query = request.path_params["path"], dict(request.query_params)
    answer = await app.answer(path, query, json.loads(body) if body else None)
    return answer if isinstance(answer, StreamResponse) else JSONResponse(answer)


def starlette_app(app: App, store: Store) -> Any:
    """Return it for Starlette."""

    async def view(request: Request) -> Any:
        return await _view(app, request)

    routes = [Route("/{path:path}", view, methods=["GET", "POST"])]
    return Starlette(routes=routes, lifespan=_own_lifespan(app, store))


def fastapi_app(app: App, store: Store) -> Any:
    """Return it for FastAPI."""
    fastapi = FastAPI(lifespan=_own_lifespan(app, store))

    async def view(request: Request) -> Any:
        answer = await _view(app, request)
        return response(answer) if isinstance(answer, StreamResponse) else answer

    fastapi.add_api_route("/{path:path}", view, methods=["GET", "POST"], response_model=None)
    return fastapi


FRAMEWORKS = {"quart": quart_app, "starlette": starlette_app, "fastapi": fastapi_app}


class Worker:
    """One app that is served: what a client of it can do.

    Attributes:
        app: the topics.
        asgi: what a server is given.
    """

    def __init__(self, app: App, asgi: Any, state: Any = None) -> None:
        self.app = app
        self.asgi = asgi
        self._state = state

    async def do(self, path: str, body: Any = None) -> Any:
        """Post to a path, and return what is answered."""

        async def sent() -> AsyncIterator[bytes]:
            yield json.dumps(body).encode()

        headers = {"content-type": "application/json"}
        answer = await collect(
            self.asgi, path, method="POST", headers=headers, body=sent(), state=self._state
        )
        assert answer.status == 200, answer
        return json.loads(answer.body)

    async def publish(self, topic: str, data: Any, **options: Any) -> str:
        """Publish, and return the id."""
        id: str = await self.do(f"/publish/{topic}", {"data": data, **options})
        return id

    @asynccontextmanager
    async def reading(
        self, path: str, last: str | None = None, **options: Any
    ) -> AsyncIterator[StreamClient]:
        """Read a stream; `last` is the id of the last event that the client has."""
        query = {name: options.pop(name) for name in ("policy", "user") if name in options}
        headers = {} if last is None else {"last-event-id": last}
        async with open_stream(
            self.asgi,
            path + ("?" + urlencode(query) if query else ""),
            headers=headers,
            state=self._state,
            **options,
        ) as client:
            await client.started()
            yield client


@asynccontextmanager
async def open_workers(
    store: Store, framework: str = "quart", count: int = 2
) -> AsyncIterator[list[Worker]]:
    """Serve so many workers of one log; in memory they are all the same one.

    What is waited for and never comes fails the test, after a time that only decides that.
    """
    with trio.fail_after(60):
        async with _served(store, framework, count) as workers:
            yield workers


@asynccontextmanager
async def _served(store: Store, framework: str, count: int) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        workers: list[Worker] = []
        for _ in range(count if store.is_shared else 1):
            app = App()
            asgi = FRAMEWORKS[framework](app, store)
            state = await stack.enter_async_context(open_lifespan(asgi))
            workers.append(Worker(app, asgi, state))
        yield workers * (1 if store.is_shared else count)
