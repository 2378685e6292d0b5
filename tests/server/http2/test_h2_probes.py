"""HTTP/2 as RFC 9113 has it: each of h2spec's cases has the outcome of a table."""

import hpack
import pytest
import trio
from _h2_probes import (
    ACKED,
    BAD_PREFACE,
    DATA_CAME,
    ENDED,
    PROBES,
    START,
    block,
    fields,
)
from fuzzing.http2 import DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame
from h2.errors import ErrorCodes

ACK = 1
OTHER = 1001  # the stream that shows that the connection serves on


async def app(scope, receive, send):
    """Answer with five bytes, when the request is whole; or never."""
    if scope["type"] != "http":
        raise NotImplementedError
    if scope["path"] == "/silent":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Peer:
    """Reads what a server sends, frame by frame.

    Attributes:
        first: the type of the first frame.
        statuses, resets, data: what has come, by stream.
        acks: how many settings were acknowledged.
        goaway: the code of GOAWAY, or None.
        closed: whether the connection has ended.
    """

    def __init__(self, stream):
        self._stream, self._unread, self._decoder = stream, b"", hpack.Decoder()
        self.first = self.goaway = None
        self.statuses, self.resets, self.data, self.ended = {}, {}, {}, set()
        self.acks, self.pongs, self.closed = 0, [], False

    async def until(self, condition):
        """Read until `condition()` is true, or nothing more comes."""
        while not (condition() or self.closed):
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self.closed = not data
            self._unread += data
            while len(self._unread) >= 9:
                end = 9 + int.from_bytes(self._unread[:3], "big")
                if len(self._unread) < end:
                    break
                one, self._unread = self._unread[:end], self._unread[end:]
                self._take(one[3], one[4], int.from_bytes(one[5:9], "big"), one[9:])

    def _take(self, kind, flags, stream, payload):
        self.first = kind if self.first is None else self.first
        if kind == HEADERS:
            self.statuses[stream] = dict(self._decoder.decode(payload))[":status"]
        elif kind == DATA and payload:
            self.data.setdefault(stream, []).append(len(payload))
        elif kind == RST_STREAM:
            self.resets.setdefault(stream, int.from_bytes(payload, "big"))
        elif kind == SETTINGS:
            self.acks += flags & ACK
        elif kind == PING and flags & ACK:
            self.pongs.append(payload)
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def outcome(self, stream=1):
        """Return what has come of a stream, or of all, in the words of the table."""
        if self.closed:
            return "closed" if self.goaway is None else f"connection {name(self.goaway)}"
        if self.resets.get(stream):  # 0 comes behind an answer that needs no more of the request
            return f"stream {name(self.resets[stream])}"
        if stream in self.data and stream not in self.ended:
            return " ".join(["data", *map(str, self.data[stream])])
        return self.statuses.get(stream, "ignored")


def name(code):
    return ErrorCodes(code).name


async def outcome(stream, probe):
    """Send what the probe says; return what comes of it."""
    peer, sent = Peer(stream), 0
    pending = b"" if probe is BAD_PREFACE else START
    for part in probe.send:
        if isinstance(part, bytes):
            pending += part
            sent += part[3] == SETTINGS
            continue
        await stream.send_all(pending)
        pending = b""
        await peer.until(
            {
                ACKED: lambda: peer.acks == 1 + sent,  # noqa: B023
                DATA_CAME: lambda: 1 in peer.data,
                ENDED: lambda: 1 in peer.ended,
            }[part]
        )
    # In one piece with the last of it: a server that has closed would answer with a reset, in which
    # its GOAWAY may be lost.
    pending += frame(PING, 0, 0, b"the end.")
    if "streams" not in probe.name:  # with as many as are allowed there is none to be had
        pending += frame(HEADERS, 5, OTHER, block(fields()))
        await stream.send_all(pending)
        await peer.until(lambda: OTHER in peer.statuses)
        assert peer.closed or peer.statuses[OTHER] == "200"
    else:
        await stream.send_all(pending)
    with trio.move_on_after(5):
        await peer.until(
            lambda: (
                b"the end." in peer.pongs
                and peer.outcome(probe.stream) in (probe.expected, *probe.allowed)
            )
        )
    assert peer.first in (SETTINGS, None)
    return peer.outcome(probe.stream)


async def ask(url, connect, probe):
    """Return what comes of a probe on a connection of its own."""
    with trio.fail_after(10):
        stream = await connect(url, alpn="h2")
        found = await outcome(stream, probe)
        await trio.aclose_forcefully(stream)
    return found


SECTIONS = {}
for probe in PROBES:
    family, _, rest = probe.number.partition("/")
    SECTIONS.setdefault(f"http2/{rest[0]}" if family == "http2" else family, []).append(probe)


@pytest.mark.parametrize("section", SECTIONS)
async def test_the_outcomes(server, connect, clean_log, section):
    """Each case has the outcome of the table; nothing is logged of it as a failure."""
    url = await server(app)
    probes = [probe for probe in SECTIONS[section] if probe is not BAD_PREFACE]
    found = {probe.number: await ask(url, connect, probe) for probe in probes}
    assert found == {probe.number: probe.expected for probe in probes}


async def test_the_outcomes_over_tls(server, connect, clean_log, certificate):
    """Over TLS one case of each outcome has the same, and what is no HTTP/2 ends the connection."""
    url = await server(app, **certificate)
    probes = [BAD_PREFACE, *{probe.expected: probe for probe in PROBES}.values()]
    found = {probe.number: await ask(url, connect, probe) for probe in probes}
    assert found == {probe.number: probe.expected for probe in probes}


def test_the_table():
    """It has every case of h2spec once, and a reason for what is not done as it is asked."""
    numbers = [probe.number for probe in PROBES]
    assert len(numbers) == len(set(numbers)) == 147
    for probe in PROBES:
        assert bool(probe.why) == (probe.expected not in probe.allowed), probe.number
        if probe.why:  # never for less than what is asked
            assert probe.expected.startswith("connection "), probe.number
