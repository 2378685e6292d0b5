"""Whether what a server has answered is well-formed, whatever it was asked.

h11 and wsproto read HTTP/1.1 and WebSockets. h2 would have to be told what was asked, which of a
damaged conversation nobody knows; so frames are judged by themselves (`Frames`), and headers by
hpack.
"""

import re

import h11
import hpack
import wsproto
from wsproto.connection import ConnectionType
from wsproto.extensions import PerMessageDeflate

from fuzzing import http2
from fuzzing.http2 import PREFACE
from fuzzing.settings import HEADER_TABLE_SIZE, INITIAL_WINDOW, MAX_FRAME

_METHOD = re.compile(rb"\r\nx-method: ([A-Z_-]+)\r\n")
_UPGRADES = re.compile(rb"HTTP/1.1 101 ")
_NAME = re.compile(rb":status|[!#$%&'*+.^_`|~0-9a-z-]+")
_HOP_BY_HOP = {b"connection", b"transfer-encoding", b"keep-alive", b"upgrade"}


class Wrong(AssertionError):  # noqa: N818  # a verdict
    """What is wrong with an answer."""


def judge(asked, answer):
    """Return how many requests were answered.

    Args:
        asked: what the client has sent.
        answer: what has come back, up to wherever it ended.

    Raises:
        Wrong: it is not well-formed.
    """
    if not answer:
        return 0
    if answer.startswith(b"HTTP/1."):
        return _judge_http1(answer)
    frames = Frames(asked)
    frames.take(answer)
    return len(frames.heads)


def _judge_http1(answer):
    count = 0
    while answer:
        head = answer[: answer.find(b"\r\n\r\n") + 4]
        method = found[1] if (found := _METHOD.search(head)) else b"GET"
        connection = h11.Connection(h11.CLIENT)
        fields = [("host", "x")]
        upgrades = _UPGRADES.match(answer)
        if upgrades:
            fields += [("connection", "upgrade"), ("upgrade", "websocket")]
        connection.send(h11.Request(method=method, target="/", headers=fields))
        connection.send(h11.EndOfMessage())
        connection.receive_data(answer)
        try:
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                count += isinstance(event, h11.Response)
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    _judge_websocket(event, connection.trailing_data[0])
                    return count + 1
                if isinstance(event, h11.EndOfMessage):
                    break
        except h11.RemoteProtocolError as error:
            raise Wrong(f"{error}: {answer[:300]!r}") from error
        if event is h11.NEED_DATA:
            return count  # it ends in the middle
        answer = connection.trailing_data[0]
    return count


def _judge_websocket(event, data):
    fields = dict(event.headers)
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        raise Wrong(f"an upgrade to {fields.get(b'upgrade')!r}")
    extensions = []
    if agreed := fields.get(b"sec-websocket-extensions"):
        extensions = [PerMessageDeflate()]
        extensions[0].finalize(agreed.decode())
    connection = wsproto.Connection(ConnectionType.CLIENT, extensions)
    try:
        connection.receive_data(data)
        for _ in connection.events():
            pass
    except wsproto.utilities.RemoteProtocolError as error:
        if connection.state is not wsproto.connection.ConnectionState.CLOSED:
            raise Wrong(f"{error}: {data[:300]!r}") from error


def frames_of(data):
    """Yield the frames, as far as they are whole: (kind, flags, stream, payload)."""
    at = 0
    while len(data) - at >= 9:
        size = int.from_bytes(data[at : at + 3], "big")
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        payload = data[at + 9 : at + 9 + size]
        if len(payload) < size:
            return
        yield data[at + 3], data[at + 4], stream, payload
        at += 9 + size


class Frames:
    """The frames of a server, judged one after the other (RFC 9113 § 5.1, § 6, § 8.1).

    Args:
        asked: what the client has sent: what it allows, at most, is in it.

    Attributes:
        heads: streams on which a response has begun.
    """

    def __init__(self, asked):
        self.heads = set()
        self._begun = False
        self._over = set()
        self._decoder = hpack.Decoder()
        self._sent = {}  # {stream: bytes of DATA}; 0 for the connection
        self._block = None  # (stream, flags, what came of it)
        self._grants = {0: 65535}
        self._window, self._size, table = 65535, 16384, 4096
        for kind, flags, stream, payload in frames_of(asked.removeprefix(PREFACE)):
            if kind == http2.WINDOW_UPDATE and len(payload) == 4:
                grant = int.from_bytes(payload, "big") & 0x7FFFFFFF
                self._grants[stream] = self._grants.get(stream, 0) + grant
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                for at in range(0, len(payload) - 5, 6):
                    key = int.from_bytes(payload[at : at + 2], "big")
                    value = int.from_bytes(payload[at + 2 : at + 6], "big")
                    if key == INITIAL_WINDOW:
                        self._window = max(self._window, value)
                    elif key == MAX_FRAME:
                        self._size = max(self._size, value)
                    elif key == HEADER_TABLE_SIZE:
                        table = max(table, value)
        self._decoder.max_allowed_table_size = table

    def take(self, data):
        """Look at what has come; raise Wrong if it is not as it should be."""
        for kind, flags, stream, payload in frames_of(data):
            if not self._begun and kind != http2.SETTINGS:
                raise Wrong(f"it does not begin with settings: {data[:100]!r}")
            self._begun = True
            if len(payload) > self._size:
                raise Wrong(f"a frame of {len(payload)} bytes, kind {kind}")
            if self._block and kind != http2.CONTINUATION:
                raise Wrong(f"headers are interrupted by a frame of kind {kind}")
            self._take(kind, flags, stream, payload)

    def _take(self, kind, flags, stream, payload):
        if kind not in range(10):
            raise Wrong(f"an unknown frame, {kind}")
        on_connection = kind in {http2.SETTINGS, http2.PING, http2.GOAWAY}
        if (stream == 0) != on_connection and kind != http2.WINDOW_UPDATE:
            raise Wrong(f"a frame of kind {kind} on stream {stream}")
        if kind == http2.PUSH_PROMISE:
            raise Wrong("a push, for which nobody has asked")
        if kind in {http2.DATA, http2.HEADERS} and stream in self._over:
            raise Wrong(f"a frame of kind {kind} behind the end of stream {stream}")
        if kind == http2.HEADERS:
            self._block = (stream, flags, b"")
        if kind in {http2.HEADERS, http2.CONTINUATION}:
            if self._block is None or self._block[0] != stream:
                raise Wrong("a continuation of nothing")
            self._block = (stream, self._block[1], self._block[2] + payload)
            if flags & http2.END_HEADERS:
                block, self._block = self._block, None
                self._head(*block)
        elif kind == http2.DATA:
            if stream not in self.heads:
                raise Wrong(f"data before the head of stream {stream}")
            for one, most in ((0, 0), (stream, self._window)):
                self._sent[one] = self._sent.get(one, 0) + len(payload)
                if self._sent[one] > most + self._grants.get(one, 0):
                    raise Wrong(f"more than the window of stream {one} allows")
            if flags & http2.END_STREAM:
                self._over.add(stream)
        elif kind == http2.RST_STREAM:
            self._over.add(stream)

    def _head(self, stream, flags, block):
        if flags & (http2.PADDED | http2.WITH_PRIORITY):
            raise Wrong("a head with padding or a priority")
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise Wrong(f"a head that is not HPACK: {error}") from error
        names = [name for name, _ in fields]
        for name, value in fields:
            if not _NAME.fullmatch(name) or name in _HOP_BY_HOP or b"\n" in value:
                raise Wrong(f"a field {name!r}: {value!r}")
        if stream not in self.heads:
            if names[:1] != [b":status"] or names.count(b":status") != 1:
                raise Wrong(f"a head without its status: {names}")
            if not fields[0][1].startswith(b"1"):
                self.heads.add(stream)
        elif b":status" in names or not flags & http2.END_STREAM:
            raise Wrong(f"a second head on stream {stream}")
        if flags & http2.END_STREAM:
            self._over.add(stream)
