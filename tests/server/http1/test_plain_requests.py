"""Plain requests: read and framed without h11, in one task, and otherwise as h11 does it."""

import contextvars
import random
import socket

import h11
import pytest
import trio
import trio.testing
from _homes import HOMES
from hypothesis import given
from hypothesis import strategies as st

from flowstream import Topic, sse
from flowstream.server import _listening, streaming_config
from flowstream.server._connections import Connections
from flowstream.server._request_rules import RequestHead, judge_http1
from flowstream.server.http1._plain_request import read_plain
from flowstream.server.http1._plain_response import FramedByH11, ServerFields, begin

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
BROWSER = (
    b"GET /events?a=1 HTTP/1.1\r\nHost: localhost:8000\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="143"\r\nAccept: text/event-stream\r\nCookie: a=b; c=\xc3\xa9\r\n'
    b"Cache-Control: no-cache\r\nLast-Event-ID:   abc.1\t \r\nEmpty:\r\n\r\n"
)


def read_by_h11(data):
    """Return target and fields of a request as h11 reads it; None if more follows."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert type(connection.next_event()) is h11.EndOfMessage
    assert connection.trailing_data == (b"", False)
    assert (request.method, request.http_version) == (b"GET", b"1.1")
    assert not connection.they_are_waiting_for_100_continue
    asked = RequestHead(b"GET", request.target, b"1.1", list(request.headers))
    assert judge_http1(asked) == asked
    return request.target, list(request.headers)


@pytest.mark.parametrize("data", [GET, BROWSER])
def test_it_is_read_as_h11_reads_it(data):
    """What is plain has the same target and the same fields."""
    assert read_plain(data, 256) == read_by_h11(data)


FIELDS = {
    "a body": b"Content-Length: 0\r\n",
    "chunks": b"Transfer-Encoding: chunked\r\n",
    "a question": b"Expect: 100-continue\r\n",
    "WebSocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "an end": b"Connection: close\r\n",
    "an end among others": b"Connection: keep-alive, close\r\n",
    "a second host": b"Host: other\r\n",
    "a folded line": b"A: b\r\n c\r\n",
    "a space before the colon": b"A : b\r\n",
    "a control character": b"A: b\x01\r\n",
    "a bare LF": b"A: b\nB: c\r\n",
    "a bare CR": b"A: b\rB: c\r\n",
    "no name": b": b\r\n",
    "no colon": b"A\r\n",
}
HEADS = {
    **{name: GET.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n") for name, field in FIELDS.items()},
    "another method": GET.replace(b"GET", b"POST"),
    "HEAD": GET.replace(b"GET", b"HEAD"),
    "a method in lower case": GET.replace(b"GET", b"get"),
    "HTTP/1.0": GET.replace(b"1.1", b"1.0"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an absolute target": GET.replace(b" / ", b" http://localhost/ "),
    "a target in bytes": GET.replace(b" / ", b" /\xe9 "),
    "two spaces": GET.replace(b" / ", b"  / "),
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n",
    "no field": b"GET / HTTP/1.1\r\n\r\n",
    "an odd host": GET.replace(b"localhost", b"a b/c@d"),
    "a fragment": GET.replace(b" / ", b" /a#b "),
    "an escaped NUL": GET.replace(b" / ", b" /%00 "),
    "above the root": GET.replace(b" / ", b" /.. "),
    "half of it": GET[:-2],
    "a line before it": b"\r\n" + GET,
    "a second request": GET + GET,
    "something behind it": GET + b"x",
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
def test_what_is_not_plain(data):
    """What has more to it is left to h11."""
    assert read_plain(data, 256) is None


def test_no_mutation_is_read_otherwise():
    """Whatever a client makes of a plain request, h11 takes it, too, and in the same way."""
    random_ = random.Random("flowstream")
    parts = [b"\r\n", b"\n", b"\r", b":", b" ", b"\t", b"\0", b"\x7f", b"\xff", b"Host: a\r\n"]
    parts += [*FIELDS.values(), b"HTTP/1.1", b"GET ", b"%00", b"\x0b", b"\x0c", b"\x85", b"\x1c"]
    plain = 0
    for _ in range(4000):
        data = bytearray(random_.choice([GET, BROWSER]))
        for _ in range(random_.randint(1, 2)):
            at = random_.randrange(len(data))
            kind = random_.randrange(3)
            if kind == 0:
                data[at:at] = random_.choice(parts)
            elif kind == 1:
                del data[at : at + random_.randint(1, 3)]
            else:
                data[at] = random_.randrange(256)
        found = read_plain(bytes(data), 256)
        if found is not None:
            plain += 1
            assert found == read_by_h11(bytes(data)), bytes(data)
    assert plain > 500


# -- responses ---------------------------------------------------------------------------------

RESPONSES = [
    (200, []),
    (200, [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-a", b"")]),
    (404, [(b"X-Mixed-Case", b"a\tb \xe9"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]),
    (599, [(b"vary", b"accept")]),
    (200, [(b"content-type", b"text/plain"), (b"content-length", b"5001"), (b"x-a", b"b")]),
    (500, [(b"Content-Length", b"05001")]),
]


@pytest.mark.parametrize(("status", "fields"), RESPONSES)
def test_it_is_framed_as_h11_frames_it(status, fields):
    """Head, pieces of the body and end have the same bytes."""
    server = ServerFields(streaming_config(include_date_header=False))
    theirs = FramedByH11()
    ours, head = begin(status, fields, server)
    assert head == theirs.head(status, [*fields, *server.fields()])
    for body in (b"x", b"y" * 5000):
        assert ours.body(body) == theirs.body(body)
    assert not ours.keeps
    assert ours.end() == theirs.end()
    assert ours.keeps
    assert theirs.keeps


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (204, (b"a", b"b")),
        (304, (b"a", b"b")),
        (103, (b"link", b"</a>")),
        (200, (b"Content-Length", b"+3")),
        (200, (b"Content-Length", b"3, 3")),
        (200, (b"Content-Length", b"")),
        (200, (b"Content-Length", b"9" * 19)),
        (204, (b"Content-Length", b"3")),
        (200, (b"transfer-encoding", b"chunked")),
        (200, (b"connection", b"close")),
        (200, (b"a", b"b\r\nc: d")),
        (200, (b"a\r\nb", b"c")),
        (200, (b"a: b", b"c")),
        (200, (b"a ", b"c")),
        (200, (b"", b"c")),
        (200, (b"a", b"\0")),
    ],
)
def test_what_h11_frames(status, field):
    """A response with anything to it is left to h11, which refuses what can't be sent."""
    assert begin(status, [field], ServerFields(streaming_config())) is None


def test_two_lengths_are_left_to_h11():
    """So are a length beside another framing, and one beside a field that can't be sent."""
    server = ServerFields(streaming_config())
    length = (b"content-length", b"3")
    for other in (length, (b"transfer-encoding", b"chunked"), (b"a", b"b\r\n"), (b"host", b"a")):
        assert begin(200, [length, other], server) is None
        assert begin(200, [other, length], server) is None


SAID = st.lists(st.sampled_from([b"", b"a", b"bc", b"def"]), max_size=4)


@given(length=st.integers(0, 7), said=SAID)
def test_a_length_is_kept_as_h11_keeps_it(length, said):
    """A body that is longer or shorter than its length is refused at the same moment."""
    server = ServerFields(streaming_config())
    fields = [(b"content-length", b"%d" % length)]
    theirs = FramedByH11()
    ours, _ = begin(200, fields, server)
    theirs.head(200, fields)

    def outcome(framing):
        found = []
        try:
            found.extend(framing.body(data) for data in said)
            found.append(framing.end())
        except h11.LocalProtocolError as error:
            found.append(str(error))
        return found, framing.keeps

    assert outcome(ours) == outcome(theirs)


def test_the_date_goes_on(monkeypatch):
    """The server's own fields are made anew each second."""
    moment = 1e9
    monkeypatch.setattr("flowstream.server.http1._plain_response.time", lambda: moment)
    monkeypatch.setattr("hypercorn.config.time", lambda: moment)
    server = ServerFields(streaming_config())
    before = server.block()
    assert b"01:46:40" in before
    moment += 1
    assert b"01:46:41" in server.block()


# -- on a connection ---------------------------------------------------------------------------


@pytest.fixture
def ways(monkeypatch):
    """Return the connections of the servers that follow."""
    made = []
    add = Connections.__init__

    def noted(self, *arguments):
        add(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Connections, "__init__", noted)
    return made


async def read_until(stream, mark):
    found = b""
    with trio.fail_after(10):
        while mark not in found:
            some = await stream.receive_some()
            assert some, found
            found += some
    return found


class Tasks(trio.abc.Instrument):
    """Counts the tasks that begin, and how often one goes on."""

    def __init__(self):
        self.begun = self.steps = 0

    def task_spawned(self, task):
        self.begun += 1

    def before_task_step(self, task):
        self.steps += 1


@pytest.mark.parametrize("home", HOMES)
async def test_a_stream_is_plain(server, connect, ways, home):
    """In each home a request for a stream is read and answered without h11."""
    topic = Topic("t")
    url = await server(HOMES[home](lambda: sse(topic)))
    for request in (GET, BROWSER):
        stream = await connect(url)
        await stream.send_all(request)
        await read_until(stream, b"\n\n\r\n")
    (connections,) = ways
    assert (connections.plain, connections.others) == (2, 0)
    await topic.aclose()


async def test_one_task_a_connection(server, connect):
    """A new connection with a stream of a topic takes one task, and few steps of it."""
    topic = Topic("t")
    url = await server(HOMES["bare"](lambda: sse(topic)))
    for stream in [await connect(url) for _ in range(3)]:  # what is made once is made
        await stream.send_all(GET)
        await read_until(stream, b"\n\n\r\n")
    streams = [await connect(url) for _ in range(20)]
    await trio.testing.wait_all_tasks_blocked(0.02)
    tasks = Tasks()
    trio.lowlevel.add_instrument(tasks)
    for stream in streams:
        await stream.send_all(GET)
    await trio.testing.wait_all_tasks_blocked(0.02)
    trio.lowlevel.remove_instrument(tasks)
    assert topic.subscribers == 23
    assert tasks.begun == 0  # they had begun to wait for the request
    assert tasks.steps <= 20 * 5
    await topic.aclose()


async def answer(scope, receive, send):
    """Answer with the path."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = scope["path"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def get(path, *fields):
    return b"".join([b"GET %b HTTP/1.1\r\nHost: a\r\n" % path, *fields, b"\r\n"])


async def test_one_after_the_other(server, connect, ways):
    """Requests that are plain or not are answered in order on one connection."""
    stream = await connect(await server(answer))
    for number in range(3):
        await stream.send_all(get(b"/%d" % number))
        assert (await read_until(stream, b"\r\n0\r\n\r\n")).endswith(
            b"\r\n/%d\r\n0\r\n\r\n" % number
        )
    await stream.send_all(get(b"/3") + get(b"/4"))
    assert b"\r\n/3\r\n0\r\n\r\nHTTP/1.1 200" in await read_until(stream, b"/4\r\n0\r\n\r\n")
    await stream.send_all(get(b"/5"))
    assert b"/5" in await read_until(stream, b"\r\n0\r\n\r\n")
    (connections,) = ways
    assert (connections.plain, connections.others) == (3, 1)


async def test_pipelined_behind_a_stream(server, connect):
    """What comes while a response is under way is answered after it."""
    go_on = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/first":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"first"})
        else:
            await answer(scope, receive, send)

    stream = await connect(await server(app))
    await stream.send_all(get(b"/first"))
    await read_until(stream, b"\r\n\r\n")
    await stream.send_all(get(b"/second", b"Connection: close\r\n"))
    go_on.set()
    found = await read_until(stream, b"/second\r\n0\r\n\r\n")
    assert found.startswith(b"5\r\nfirst\r\n0\r\n\r\nHTTP/1.1 200")
    assert await stream.receive_some() == b""


async def test_work_behind_a_response(server, connect):
    """The next request does not wait for what an application does when it has answered."""
    go_on = trio.Event()

    async def app(scope, receive, send):
        await answer(scope, receive, send)
        if scope["path"] == "/slow":
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            await go_on.wait()

    stream = await connect(await server(app))
    await stream.send_all(get(b"/slow"))
    await read_until(stream, b"\r\n0\r\n\r\n")
    await stream.send_all(get(b"/next"))
    await read_until(stream, b"/next\r\n0\r\n\r\n")
    go_on.set()


async def test_contextvars_are_each_requests_own(server, connect):
    """What an application sets in a context variable is not there in the next request."""
    variable = contextvars.ContextVar("variable", default="unset")
    found = []

    async def app(scope, receive, send):
        found.append(variable.get())
        variable.set("set")
        await answer(scope, receive, send)

    stream = await connect(await server(app))
    for _ in range(2):
        await stream.send_all(GET)
        await read_until(stream, b"\r\n0\r\n\r\n")
    assert set(found) == {"unset"}


async def test_the_last_request(server, connect):
    """``keep_alive_max_requests`` counts plain requests and others together."""
    stream = await connect(await server(answer, keep_alive_max_requests=3))
    await stream.send_all(get(b"/1"))
    assert b"close" not in await read_until(stream, b"\r\n0\r\n\r\n")
    await stream.send_all(GET.replace(b"GET", b"OPTIONS"))
    assert b"close" not in await read_until(stream, b"\r\n0\r\n\r\n")
    await stream.send_all(get(b"/3"))
    assert b"connection: close" in (await read_until(stream, b"\r\n0\r\n\r\n")).lower()
    assert await stream.receive_some() == b""
    stream = await connect(await server(answer, keep_alive_max_requests=1))
    await stream.send_all(get(b"/1"))
    assert b"connection: close" in (await read_until(stream, b"\r\n0\r\n\r\n")).lower()
    assert await stream.receive_some() == b""


async def test_an_app_that_answers_nothing(server, connect, clean_log):
    """It is answered for with 500, and the connection ends."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError

    stream = await connect(await server(app))
    await stream.send_all(GET)
    found = await read_until(stream, b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 500")
    assert b"content-length: 0" in found.lower()
    assert await stream.receive_some() == b""


async def test_a_wrong_header_is_the_apps_fault(server, connect):
    """A response that can't be sent raises in the application, and a new line adds no header."""
    raised = []

    async def app(scope, receive, send):
        try:
            head = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]}
            await send(head)
        except ValueError as error:
            raised.append(error)

    stream = await connect(await server(app))
    await stream.send_all(GET)
    found = await read_until(stream, b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 500")
    assert b"c: d" not in found
    assert len(raised) == 1


async def test_a_head_in_two_packets_has_no_more_time(server, connect, aeventually, ways):
    """A head that comes in pieces has to be there when ``keep_alive_timeout`` is over."""
    stream = await connect(await server(answer, keep_alive_timeout=0.4))
    began = trio.current_time()
    await trio.sleep(0.25)
    await stream.send_all(GET[:10])
    with trio.fail_after(10):
        assert await stream.receive_some() == b""
    assert trio.current_time() - began >= 0.4
    (connections,) = ways
    await aeventually(lambda: not len(connections), "the connection is forgotten")


async def test_accepted_sockets_are_tuned(server, connect, monkeypatch):
    """What Trio sets on each socket is inherited from the one that listens."""
    made = []
    wire = _listening.Wire

    def noted(sock):
        made.append(sock)
        return wire(sock)

    monkeypatch.setattr(_listening, "Wire", noted)
    stream = await connect(await server(answer))
    await stream.send_all(GET)
    await read_until(stream, b"\r\n0\r\n\r\n")
    (sock,) = made
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 1 << 14
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
