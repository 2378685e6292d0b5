"""A model's server, as far as its clients can tell: real sockets, the real wire formats.

It answers each request with what it was told to: a refusal, or a stream made of events and of
things that go wrong. It notes when each of its connections is closed by the other side, on
Trio's clock, whatever it is doing at the time.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

Answer = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One connection of a client's.

    Attributes:
        requests: what was asked on it: method and path, headers, decoded body.
        closed: set when the client has closed it.
        closed_at: and when that was.
        sent: bytes of chunks that were taken.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._began = False
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.closed = trio.Event()
        self.closed_at: float | None = None
        self.sent = 0

    async def begin(self, media_type: str = "text/event-stream", status: int = 200) -> None:
        """Send the head of a response of unknown length."""
        self._began = True
        await self._stream.send_all(
            f"HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\n"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )

    async def send(self, data: bytes) -> None:
        """Send a chunk."""
        if not self._began:
            await self.begin()
        await self._stream.send_all(b"%x\r\n%s\r\n" % (len(data), data))
        self.sent += len(data)

    async def end(self) -> None:
        """Send the last chunk."""
        await self._stream.send_all(b"0\r\n\r\n")
        self._began = False

    async def send_whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole response."""
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        await self._stream.send_all(head.encode() + b"\r\n" + body)

    async def break_off(self) -> None:
        """Reset the connection."""
        # Linger for no time: what is unsent is dropped, and a reset sent.
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()

    async def serve(self, answers: deque[Answer]) -> None:
        """Answer request after request; the last answer is that to all that follow, too."""
        async with trio.open_nursery() as nursery:
            asked, next_request = trio.open_memory_channel[None](10)
            nursery.start_soon(self._listen, asked)
            try:
                async for _ in next_request:
                    await (answers.popleft() if len(answers) > 1 else answers[0])(self)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.closed.wait()
            nursery.cancel_scope.cancel()

    async def _listen(self, asked: trio.MemorySendChannel[None]) -> None:
        data = b""
        try:
            async with asked:
                async for more in self._stream:
                    data += more
                    while (request := self._parse(data)) is not None:
                        data = data[request:]
                        await asked.send(None)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed_at = trio.current_time()
        self.closed.set()

    def _parse(self, data: bytes) -> int | None:
        """Note a request if it is whole; return its length."""
        head, mark, rest = data.partition(b"\r\n\r\n")
        if not mark:
            return None
        line, *fields = head.decode().split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        headers = {name.lower(): value for name, value in pairs}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return None
        self.requests.append((line.rpartition(" ")[0], headers, json.loads(rest[:length])))
        return len(head) + 4 + length


class Upstream:
    """The server.

    Attributes:
        url: where it listens.
        connections: all that there were.
        answers: what it does with the requests to come, one after the other.
    """

    def __init__(self) -> None:
        self.url = ""
        self.connections: list[Connection] = []
        self.answers: deque[Answer] = deque()

    @property
    def bodies(self) -> list[Any]:
        """The decoded bodies of all requests."""
        return [body for one in self.connections for _, _, body in one.requests]

    @property
    def latest(self) -> Connection:
        """The connection that was opened last."""
        return self.connections[-1]

    def all_closed(self) -> bool:
        """Return whether every connection was closed by its client."""
        return all(one.closed.is_set() for one in self.connections)

    def answer(self, *answers: Answer) -> None:
        """Answer the next requests so; the last is for all after it, too."""
        self.answers.clear()  # connections that are kept have the same deque
        self.answers.extend(answers)

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = Connection(stream)
        self.connections.append(connection)
        async with stream:
            await connection.serve(self.answers)


@asynccontextmanager
async def open_upstream() -> AsyncGenerator[Upstream, None]:
    """Run a server on a free port of 127.0.0.1."""
    upstream = Upstream()
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, upstream._serve, [listener])
        upstream.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield upstream
        nursery.cancel_scope.cancel()


# -- answers -------------------------------------------------------------------------------


def refuse(status: int, body: Any = None, **headers: str) -> Answer:
    """Answer with an error; ``_`` in the name of a header is ``-``."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(connection: Connection) -> None:
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        await connection.send_whole(status, raw, {"content-type": "application/json", **fields})

    return answer


async def hang(connection: Connection) -> None:
    """Say nothing more until the client closes the connection."""
    await connection.closed.wait()


async def break_off(connection: Connection) -> None:
    """Reset the connection."""
    await connection.break_off()


async def flood(connection: Connection) -> None:
    """Send tokens without an end."""
    piece = framed(chat_chunk({"content": "token "})) * 20
    while True:
        await connection.send(piece)


def stream(*steps: Any, media_type: str = "text/event-stream", end: bool = True) -> Answer:
    """Answer with events: dicts, text to be sent as it is, and functions to be called."""

    async def answer(connection: Connection) -> None:
        await connection.begin(media_type)
        for step in steps:
            if callable(step):
                await step(connection)
            else:
                await connection.send(step.encode() if isinstance(step, str) else framed(step))
        if end:
            await connection.end()

    return answer


def framed(event: dict[str, Any]) -> bytes:
    """Return an event as the vendors frame it: OpenAI's chunks have no name, others have."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


# -- what OpenAI sends ---------------------------------------------------------------------


def chat_chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return one chunk of a chat completion."""
    return {
        "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
        "object": "chat.completion.chunk",
        "created": 1741570283,
        "model": "gpt-4o-2024-08-06",
        "service_tier": "default",
        "system_fingerprint": "fp_fc9f1d7035",
        "choices": [
            {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish},
        ],
        "usage": None,
        **more,
    }


ROLE = chat_chunk({"role": "assistant", "content": "", "refusal": None})
CHAT_USAGE = chat_chunk(
    choices=[], usage={"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
)
END = "data: [DONE]\n\n"


def chat(*texts: str, finish: str = "stop") -> list[Any]:
    """Return the steps of a whole chat completion."""
    tokens = [chat_chunk({"content": text}) for text in texts]
    return [ROLE, *tokens, chat_chunk(finish=finish), CHAT_USAGE, END]


# -- what Anthropic sends ------------------------------------------------------------------

MESSAGE_START = {
    "type": "message_start",
    "message": {
        "id": "msg_1nZdL29xx5MUA1yADyHTEsnR8uuvGzszyY",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-opus-4-6",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 4,
            "output_tokens": 1,
        },
    },
}
PING = {"type": "ping"}
MESSAGE_STOP = {"type": "message_stop"}


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[Any]:
    """Return the events of one block of a message's content."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *texts: str) -> list[Any]:
    """Return the events of a block of text."""
    deltas = ({"type": "text_delta", "text": text} for text in texts)
    return block(index, {"type": "text", "text": ""}, *deltas)


def message_delta(reason: str, output_tokens: int = 15) -> dict[str, Any]:
    """Return the event that says why the model stopped."""
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": output_tokens},
    }


def message(*texts: str, reason: str = "end_turn") -> list[Any]:
    """Return the steps of a whole message."""
    return [MESSAGE_START, PING, *text_block(0, *texts), message_delta(reason), MESSAGE_STOP]
