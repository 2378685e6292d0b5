"""The test kit itself: what other tests rely on has to be proved first."""

import math

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import testing
from flowstream.testing import EndOfBody, Headers, collect, open_lifespan, open_stream

START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data=b"", *, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


END = body(more=False)


def says(*messages):
    """Return an app that sends these messages and returns."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


def chunks(*data):
    """Return an app that sends these chunks and the final one."""
    return says(START, *(body(part) for part in data), END)


async def endless(scope, receive, send):
    """Send ten bytes over and over until the client has gone."""
    await send(START)
    async with trio.open_nursery() as nursery:

        async def watch():
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        while True:
            await send(body(b"0123456789"))


async def listens(scope, receive, send):
    """Send nothing but the head and wait for the client to go."""
    await send(START)
    while (await receive())["type"] != "http.disconnect":
        pass


async def fail_when_blocked(client, error):
    await client.wait_blocked()
    raise error


# Reading


async def test_everything_is_read_at_once_by_default(autojump_clock):
    """Without a window the client has the whole body, and knows that it is whole."""
    async with open_stream(chunks(b"one", b"two"), "/") as client:
        assert await client.read_all() == b"onetwo"
        assert client.status == 200
        assert client.complete
        await client.wait_finished()
    assert client.received == b"onetwo"


async def test_a_window_of_nothing_blocks_the_first_send(autojump_clock):
    """The head of a response needs no window, its first byte does."""
    async with open_stream(endless, window=0) as client:
        await client.started()
        await client.wait_blocked()
        await trio.sleep(3600)
        assert client.received == b""
        assert client.statistics().sends_pending == 1
        assert client.statistics().bytes_pending == 10


async def test_a_grant_lets_exactly_so_many_bytes_through(autojump_clock):
    """A send larger than the window delivers the part that fits and blocks for the rest."""
    async with open_stream(endless, window=4) as client:
        await wait_all_tasks_blocked()
        assert client.received == b"0123"
        client.grant(8)
        await wait_all_tasks_blocked()
        assert client.received == b"012345678901"
        stats = client.statistics()
        assert (stats.window, stats.sends, stats.bytes_pending) == (0, 1, 8)


async def test_read_takes_what_it_asks_for_and_no_more(autojump_clock):
    """`read` grants what it needs, from a window that stays at nothing."""
    async with open_stream(endless, window=0) as client:
        assert await client.read(3) == b"012"
        assert await client.read(15) == b"345678901234567"
        await wait_all_tasks_blocked()
        assert len(client.received) == 18
        assert client.statistics().window == 0


async def test_read_uses_the_window_before_it_grants_more(autojump_clock):
    """A read of 5 with a window of 8 leaves a window of 3, for bytes that arrive unread."""
    async with open_stream(endless, window=8) as client:
        assert await client.read(5) == b"01234"
        await wait_all_tasks_blocked()
        assert client.statistics().unread == 3
        assert len(client.received) == 8


async def test_a_cancelled_read_takes_its_credit_with_it(autojump_clock):
    """After a read was given up, the app cannot use the bytes that it had granted."""
    go = trio.Event()

    async def app(scope, receive, send):
        await send(START)
        await go.wait()
        await send(body(b"0123456789", more=False))

    async with open_stream(app, window=0) as client:
        with trio.move_on_after(1) as scope:
            await client.read(10)
        assert scope.cancelled_caught
        go.set()
        await client.wait_blocked()
        assert client.received == b""


async def test_read_tells_when_the_body_ends_too_early(autojump_clock):
    """`EndOfBody` carries the bytes that did come, and these count as read."""
    async with open_stream(chunks(b"abc")) as client:
        with pytest.raises(EndOfBody, match="2 bytes too early") as caught:
            await client.read(5)
        assert caught.value.partial == b"abc"
        assert await client.read_all() == b""


async def test_only_one_task_reads_at_a_time(autojump_clock):
    """A second reader is refused, because which of them gets a byte would be chance."""
    async with open_stream(listens) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.read_all)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.read(1)
        client.abort()


async def test_a_client_may_stall_and_resume(autojump_clock):
    """`stall` shuts the window whatever it was, `resume` opens it for good."""
    async with open_stream(endless, window=100) as client:
        await client.read(10)
        client.stall()
        await wait_all_tasks_blocked()
        stalled_at = len(client.received)
        assert client.statistics().window == 0
        await trio.sleep(3600)
        assert len(client.received) == stalled_at < 100
        client.resume()
        assert client.statistics().window is None
        await client.read(1000)


async def test_sends_of_two_tasks_keep_their_order(autojump_clock):
    """Blocked sends queue up and are delivered whole, one after the other."""

    async def app(scope, receive, send):
        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, body(b"aaaa"))
            await trio.sleep(1)
            nursery.start_soon(send, body(b"bbbb"))
        await send(END)

    async with open_stream(app, window=0) as client:
        await trio.sleep(2)
        assert client.statistics().sends_pending == 2
        assert await client.read(6) == b"aaaabb"
        assert await client.read_all() == b"bb"
        assert client.complete


# Events and values


async def test_next_event_takes_the_bytes_of_one_event(autojump_clock):
    """A client that reads nothing gets event by event, to the byte, comments skipped."""
    wire = b": hello\n\nid: 1\ndata: one\n\n", b"event: tick\ndata: tw", b"o\n\nda"
    async with open_stream(chunks(*wire), window=0) as client:
        event = await client.next_event()
        assert (event.type, event.data, event.id) == ("message", "one", "1")
        assert client.received == wire[0]
        event = await client.next_event()
        assert (event.type, event.data, event.id) == ("tick", "two", "1")
        assert client.received == (wire[0] + wire[1] + wire[2])[:-2]
        with pytest.raises(EndOfBody, match="an event"):
            await client.next_event()


async def test_events_can_be_iterated(autojump_clock):
    """`async for` gives the events and ends with the body, whatever ends its lines."""
    wire = b"data: 1\n\ndata: 2\r\rdata: 3\r\n\r\n"
    async with open_stream(chunks(wire)) as client:
        assert [event.data async for event in client] == ["1", "2", "3"]


async def test_next_value_reads_ndjson_line_by_line(autojump_clock):
    """Values come one by one, heartbeats are skipped, a line that was cut is no value."""
    async with open_stream(chunks(b'\n{"a":', b' 1}\r\n\n[2]\n{"c"'), window=0) as client:
        assert await client.next_value() == {"a": 1}
        assert await client.next_value() == [2]
        with pytest.raises(EndOfBody, match="a value"):
            await client.next_value()


# Going away


async def test_abort_frees_a_blocked_send_in_silence(autojump_clock):
    """The blocked send and all later ones return without an error, and with a checkpoint."""
    freed = []

    async def app(scope, receive, send):
        await send(START)
        await send(body(b"0123456789"))
        freed.append(trio.current_time())
        with trio.testing.assert_checkpoints():
            await send(body(b"more"))
        await send(END)

    async with open_stream(app, window=3) as client:
        await client.wait_blocked()
        client.abort()
        client.abort()
        await client.wait_finished()
    assert freed
    assert client.received == b"012"
    assert not client.complete
    assert client.statistics().swallowed == 7 + 4


async def test_abort_reaches_an_app_that_only_listens(autojump_clock):
    """`http.disconnect` comes while nothing is sent, before any time has passed."""
    heard = []

    async def app(scope, receive, send):
        await send(START)
        heard.append(await receive())
        heard.append(await receive())
        heard.append(trio.current_time())

    async with open_stream(app) as client:
        await client.started()
        now = trio.current_time()
        client.abort()
        with pytest.raises(EndOfBody):
            await client.read(1)
    assert heard == [
        {"type": "http.request", "body": b"", "more_body": False},
        {"type": "http.disconnect"},
        now,
    ]


async def test_a_start_after_the_abort_is_swallowed_too(autojump_clock):
    """A client that left before the head sees no head."""
    gate = trio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await send(START)

    async with open_stream(app) as client:
        client.abort()
        gate.set()
        with pytest.raises(EndOfBody, match="never started"):
            await client.started()
        await client.wait_finished()
    assert client.status is None


async def test_after_half_close_the_bytes_still_arrive(autojump_clock):
    """The app hears of a disconnect, as on Hypercorn, yet the client goes on reading."""

    async def app(scope, receive, send):
        await send(START)
        while (await receive())["type"] != "http.disconnect":
            pass
        await send(body(b"farewell", more=False))

    async with open_stream(app) as client:
        await client.started()
        client.half_close()
        assert await client.read_all() == b"farewell"
        assert client.complete


async def test_the_disconnect_is_given_once_and_after_the_last_chunk_too(autojump_clock):
    """As on Hypercorn, a finished response is followed by one disconnect and then silence."""
    heard = []

    async def app(scope, receive, send):
        await send(START)
        await send(END)
        with trio.move_on_after(1000):
            while True:
                heard.append((await receive())["type"])

    async with open_stream(app, exit_timeout=math.inf) as client:
        await client.wait_finished()
    assert heard == ["http.request", "http.disconnect"]


async def test_leaving_the_block_aborts(autojump_clock):
    """A client that is not needed any more goes away, and waits for the app to end."""
    async with open_stream(endless) as client:
        await client.read(100)
    assert client.finished
    assert not client.complete


async def test_an_app_that_does_not_end_is_reported_and_cancelled(autojump_clock):
    """An app that outlives its client by the timeout is an error, but is not left behind."""
    cancelled = []

    async def app(scope, receive, send):
        await send(START)
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    with pytest.raises(AssertionError, match="still running 7 s after"):
        async with open_stream(app, exit_timeout=7):
            pass
    assert cancelled


# Cancelling a send


async def test_a_cancelled_send_cuts_the_connection(autojump_clock):
    """What was not delivered is a hole: later bytes never arrive, the app gets a disconnect."""
    heard = []

    async def app(scope, receive, send):
        await send(START)
        await receive()
        with trio.move_on_after(30):
            await send(body(b"0123456789"))
        await send(END)
        heard.append(await receive())

    async with open_stream(app, window=4) as client:
        await trio.sleep(31)
        assert await client.read_all() == b"0123"
        assert not client.complete
    assert heard == [{"type": "http.disconnect"}]


async def test_a_send_that_is_delivered_in_the_tick_of_its_cancellation_is_whole(autojump_clock):
    """Cancelled and delivered at once, a send leaves no hole, and the body goes on."""
    scope = trio.CancelScope()

    async def app(_, receive, send):
        await send(START)
        with scope:
            await send(body(b"abc"))
        await send(body(b"def", more=False))

    async with open_stream(app, window=0) as client:
        await client.wait_blocked()
        scope.cancel()
        client.resume()
        assert await client.read_all() == b"abcdef"
        assert client.complete


async def test_a_stuck_send_ignores_cancellation_until_it_has_window(autojump_clock):
    """With `stuck_sends` a deadline around send passes unnoticed, as on plain Hypercorn."""
    ended = []

    async def app(scope, receive, send):
        await send(START)
        with trio.move_on_after(1):
            await send(body(b"0123456789"))
        ended.append(trio.current_time())

    start = trio.current_time()
    async with open_stream(app, window=0, stuck_sends=True) as client:
        await trio.sleep(100)
        assert not client.finished
        assert await client.read(10) == b"0123456789"
        await client.wait_finished()
    assert ended == [start + 100]


async def test_a_stuck_send_cannot_hold_a_test_that_fails(autojump_clock):
    """An error in the block frees the send and comes out alone."""
    with pytest.raises(ZeroDivisionError):
        async with open_stream(endless, window=0, stuck_sends=True) as client:
            await fail_when_blocked(client, ZeroDivisionError())
    assert client.finished


async def test_wait_blocked_tells_when_it_cannot_happen(autojump_clock):
    """When the body is over no send can block any more."""
    async with open_stream(chunks(b"abc")) as client:
        with pytest.raises(EndOfBody, match="without a blocked send"):
            await client.wait_blocked()


# The request


async def echo(scope, receive, send):
    """Send the request's body back, piece by piece."""
    await send(START)
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send(body(message["body"], more=more))


async def test_a_request_body_is_delivered(autojump_clock):
    """Bytes come in one message and an empty last one, as from Hypercorn."""
    assert (await collect(echo, method="POST", body=b"hello")).body == b"hello"


async def test_a_request_body_may_come_in_pieces(autojump_clock):
    """An async iterable is asked for pieces only as far as the app takes them."""
    made = []

    async def pieces():
        for n in range(30):
            made.append(n)
            yield b"%d," % n

    async with open_stream(echo, method="POST", body=pieces(), window=0) as client:
        await wait_all_tasks_blocked()
        assert len(made) == 1 + 10 + 1  # taken, in the queue, waiting for room
        data = await client.read_all()
    assert data == b"".join(b"%d," % n for n in range(30))


async def test_an_iterable_without_aclose_is_a_body_too(autojump_clock):
    """The body's pieces need not come from a generator."""

    class Pieces:
        def __init__(self):
            self.left = [b"a", b"b"]

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop(0)

    assert (await collect(echo, body=Pieces())).body == b"ab"


async def test_a_body_is_dropped_and_closed_when_the_client_leaves(autojump_clock):
    """The disconnect follows the pieces that were queued; the rest is never made."""
    closed = []
    heard = []
    gate = trio.Event()

    async def pieces():
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async def app(scope, receive, send):
        await send(START)
        await gate.wait()
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])

    async with open_stream(app, body=pieces()) as client:
        await wait_all_tasks_blocked()
        client.abort()
        gate.set()
    assert closed
    assert heard == ["http.request"] * 10 + ["http.disconnect"]


async def test_the_scope_says_what_was_asked(autojump_clock):
    """Method, path, query, headers, version and state arrive as a server would give them."""
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await send({**START, "status": 204})
        await send(END)

    state = {"db": object()}
    await collect(app, "/caf%C3%A9 au lait?a=1", method="PUT", headers={"X-Id": "7"}, state=state)
    await collect(app, query_string=b"b=2", headers=[(b"Host", b"example.org")], http_version="2")
    first, second = scopes
    assert first["type"] == "http"
    assert first["method"] == "PUT"
    assert first["path"] == "/café au lait"
    assert first["raw_path"] == b"/caf%C3%A9%20au%20lait"
    assert first["query_string"] == b"a=1"
    assert first["headers"] == [(b"host", b"localhost"), (b"x-id", b"7")]
    assert first["state"] == state
    assert first["state"] is not state
    assert second["query_string"] == b"b=2"
    assert second["headers"] == [(b"host", b"example.org")]
    assert second["http_version"] == "2"
    assert second["state"] == {}


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"path": "/?a=1", "query_string": b"b=2"}),
        (ValueError, {"window": -1}),
        (TypeError, {"window": 1.5}),
        (TypeError, {"window": True}),
    ],
)
async def test_bad_arguments_are_refused(error, options):
    """A window that is no number of bytes, or two queries, raise where they are written."""
    with pytest.raises(error):
        async with open_stream(endless, **options):
            pass


@pytest.mark.parametrize("method", ["grant", "read"])
async def test_a_count_of_nothing_is_refused(autojump_clock, method):
    """To grant or to read less than one byte is a slip of the pen."""
    async with open_stream(endless, window=0) as client:
        with pytest.raises(ValueError, match="at least 1"):
            await getattr(client, method)(0)


# The response


async def test_headers_are_found_in_any_case(autojump_clock):
    """Names match in any case, a repeated header reads as a list, `raw` keeps it apart."""
    raw = [(b"vary", b"accept"), (b"x-one", b"1"), (b"vary", b"origin")]
    response = await collect(says({**START, "headers": raw}, END))
    assert response.headers["Vary"] == "accept, origin"
    assert response.headers.get("X-ONE") == "1"
    assert "x-two" not in response.headers
    assert list(response.headers) == ["vary", "x-one"]
    assert len(response.headers) == 2
    assert response.headers.raw == tuple(raw)
    assert repr(Headers([(b"a", b"b")])) == "Headers({'a': 'b'})"


async def test_collect_returns_a_whole_response(autojump_clock):
    """Status, headers, body and whether the final chunk came."""
    response = await collect(chunks(b"a", b"b"))
    assert (response.status, response.body, response.complete) == (200, b"ab", True)


async def test_a_response_without_its_final_chunk_is_known_to_be_cut(autojump_clock):
    """An app that returns in the middle of the body leaves `complete` false."""
    response = await collect(says(START, body(b"half")))
    assert response.body == b"half"
    assert not response.complete


async def test_collect_does_not_wait_for_ever(autojump_clock):
    """An endless body raises `trio.TooSlowError` when the time is up."""

    with pytest.raises(trio.TooSlowError):
        await collect(listens, timeout=5)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_response_that_has_no_body_gets_none(autojump_clock, method, status):
    """As servers do, the client drops body bytes after HEAD, 204 and 304."""
    head = {**START, "status": status, "headers": [(b"content-length", b"9")]}
    response = await collect(says(head, body(b"some"), END), method=method)
    assert response.body == b""
    assert response.complete


async def test_a_chunk_is_copied(autojump_clock):
    """An app may use its bytearray again as soon as send has returned, or has blocked."""
    data = bytearray(b"abc")

    async def app(scope, receive, send):
        await send(START)
        await send(body(data, more=False))

    async with open_stream(app, window=0) as client:
        await client.wait_blocked()
        data[:] = b"xyz"
        assert await client.read_all() == b"abc"


async def test_statistics_count_messages_and_their_sizes(autojump_clock):
    """Tests of coalescing look at how many sends there were and at the largest of them."""
    async with open_stream(chunks(b"a" * 10, b"b" * 30, b"")) as client:
        await client.read(15)
        await client.wait_finished()
        stats = client.statistics()
    assert (stats.sends, stats.largest_send, stats.received, stats.unread) == (4, 30, 40, 25)


# Breaches of the ASGI specification


@pytest.mark.parametrize(
    ("message", "messages"),
    [
        ("is a dict, not list", [[]]),
        ("'http.response.body' before the response's start", [END]),
        ("'http.response.start' within the body", [START, START]),
        ("'http.response.body' after the final chunk", [START, END, END]),
        ("'http.response.start' after the final chunk", [START, END, START]),
        ("'http.response.trailers' within", [START, {"type": "http.response.trailers"}]),
        ("None before", [{}]),
        ("status must be an int", [{**START, "status": "200"}]),
        ("status must be an int", [{**START, "status": True}]),
        ("status must be an int from 200", [{**START, "status": 103}]),
        ("a pair of name and value", [{**START, "headers": [b"x"]}]),
        ("a pair of name and value", [{**START, "headers": [None]}]),
        ("must be bytes", [{**START, "headers": [("x", b"1")]}]),
        ("must be bytes", [{**START, "headers": [(b"x", "1")]}]),
        ("lower-case", [{**START, "headers": [(b"X-One", b"1")]}]),
        ("not pseudo", [{**START, "headers": [(b":path", b"1")]}]),
        ("not pseudo", [{**START, "headers": [(b"", b"1")]}]),
        ("CR, LF or NUL", [{**START, "headers": [(b"x", b"1\r\ny: 2")]}]),
        ("one whole number", [{**START, "headers": [(b"content-length", b"4, 4")]}]),
        ("sent 5 bytes", [{**START, "headers": [(b"content-length", b"4")]}, body(b"12345")]),
        ("sent 3 bytes", [{**START, "headers": [(b"content-length", b"4")]}, body(b"123"), END]),
        ("body must be bytes, not str", [START, body("text")]),
        ("more_body must be a bool", [START, body(more=1)]),
        ("without starting a response", []),
    ],
)
async def test_a_breach_of_asgi_is_an_error(autojump_clock, message, messages):
    """Messages out of order or of wrong types raise, and say which."""
    with pytest.raises(AssertionError, match=message):
        await collect(says(*messages))


async def test_a_right_content_length_is_accepted(autojump_clock):
    """A body of the announced size, in several pieces, passes."""
    head = {**START, "headers": [(b"content-length", b"4")]}
    response = await collect(says(head, body(b"12"), body(b"34"), END))
    assert response.body == b"1234"


@pytest.mark.parametrize("raise_app_exceptions", [True, False])
async def test_a_breach_cannot_be_swallowed(autojump_clock, raise_app_exceptions):
    """An app that catches the error of its second start fails the test all the same."""

    async def app(scope, receive, send):
        await send(START)
        for _ in range(2):
            with pytest.raises(AssertionError):
                await send(START)
        await send(END)

    with pytest.raises(AssertionError, match="within the body"):
        await collect(app, raise_app_exceptions=raise_app_exceptions)


# Exceptions


async def fails(scope, receive, send):
    """Raise in the middle of the body, inside a nursery of its own."""
    await send(START)
    await send(body(b"half"))
    async with trio.open_nursery():
        raise ZeroDivisionError("the app's")


async def test_an_error_of_the_app_comes_out_unwrapped(autojump_clock):
    """It cancels whatever the test is waiting for, and hides behind no group."""
    with pytest.raises(ZeroDivisionError, match="the app's"):
        async with open_stream(fails) as client:
            await client.read(100)
    assert client.finished
    assert client.received == b"half"


async def test_an_error_of_the_app_interrupts_a_test_that_sleeps(autojump_clock):
    """The test need not touch the client to hear of it."""
    start = trio.current_time()
    with pytest.raises(ZeroDivisionError):
        async with open_stream(fails):
            await trio.sleep(1000)
    assert trio.current_time() == start


async def test_an_error_of_the_app_may_be_kept(autojump_clock):
    """With `raise_app_exceptions=False` the client sees a cut body, as over a socket."""
    async with open_stream(fails, raise_app_exceptions=False) as client:
        assert await client.read_all() == b"half"
        await client.wait_finished()
        assert not client.complete
    assert isinstance(client.error, ExceptionGroup)


async def test_an_error_before_the_head_ends_the_wait_for_it(autojump_clock):
    """A kept error of an app that sent nothing raises `EndOfBody` in `started`."""

    async def app(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(EndOfBody, match="never started"):
        await collect(app, raise_app_exceptions=False)


async def test_two_errors_come_out_together(autojump_clock):
    """When the test and the app both fail, neither hides the other."""

    async def app(scope, receive, send):
        try:
            await endless(scope, receive, send)
        finally:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, KeyError):
        async with open_stream(app, window=0) as client:
            await fail_when_blocked(client, KeyError())


async def test_a_cancelled_test_leaves_nothing_behind(autojump_clock):
    """A deadline around the block ends the app with it, stuck sends included."""
    with trio.move_on_after(5) as scope:
        async with open_stream(endless, window=0, stuck_sends=True) as client:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert client.finished


# Lifespan


def lifespan_app(*answers, log=None, wait=0):
    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        scope["state"]["db"] = "open"
        for answer in answers:
            message = await receive()
            if log is not None:
                log.append(message["type"])
            await send(answer)
        await trio.sleep(wait)

    return app


UP = {"type": "lifespan.startup.complete"}
DOWN = {"type": "lifespan.shutdown.complete"}


async def test_a_lifespan_surrounds_its_block(autojump_clock):
    """Startup comes before the block, its state is given, shutdown follows."""
    log = []
    async with open_lifespan(lifespan_app(UP, DOWN, log=log)) as state:
        assert state == {"db": "open"}
        assert log == ["lifespan.startup"]
    assert log == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize(
    ("error", "message", "app"),
    [
        (AssertionError, "startup: it returned", lifespan_app()),
        (AssertionError, "startup: not in 60 s", lifespan_app(wait=1000)),
        (AssertionError, "shutdown: it returned", lifespan_app(UP)),
        (AssertionError, "second time", lifespan_app(UP, UP)),
        (AssertionError, "'http.response.start' in its lifespan", lifespan_app(START)),
        (AssertionError, "still running 60 s", lifespan_app(UP, DOWN, wait=1000)),
        (
            RuntimeError,
            "startup failed: no database",
            lifespan_app({"type": "lifespan.startup.failed", "message": "no database"}),
        ),
        (
            RuntimeError,
            "shutdown failed: ",
            lifespan_app(UP, {"type": "lifespan.shutdown.failed"}),
        ),
    ],
)
async def test_a_bad_lifespan_is_an_error(autojump_clock, error, message, app):
    """No answer, two answers, a failed one, or an app that stays: each is reported."""
    with pytest.raises(error, match=message):
        async with open_lifespan(app):
            pass


async def test_an_error_in_a_lifespan_block_comes_out_alone(autojump_clock):
    """The app is cancelled and the block's own error propagates, in no group."""
    with pytest.raises(ZeroDivisionError):
        async with open_lifespan(lifespan_app(UP, DOWN)):
            raise ZeroDivisionError


def test_the_public_names_are_pinned():
    """A name that is added or lost is a decision, not an accident."""
    assert testing.__all__ == [
        "ClientStatistics",
        "CollectedResponse",
        "EndOfBody",
        "Headers",
        "StreamClient",
        "check_log",
        "collect",
        "log_contracts",
        "open_lifespan",
        "open_stream",
        "simulated",
    ]
