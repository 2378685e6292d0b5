"""Direct writes over HTTP/2, as values: which frames are taken, and in which order they go."""

from types import SimpleNamespace

import pytest
from hyperframe.frame import Frame

from flowstream.asgi._direct_write import NotDirect
from flowstream.framing import UNFRAMED
from flowstream.server.http2._direct_frames import MOST, DirectFrames, StreamDirectWrite


class Connection:
    """What `DirectFrames` needs of a connection, with two streams."""

    def __init__(self):
        self.outbound_flow_control_window = 10 * MOST
        self.max_outbound_frame_size = 16384
        self.is_busy = False
        self.wakes = 0
        self.frames = DirectFrames(self, lambda: self.is_busy, self.wake)
        self.one, self.two = (
            SimpleNamespace(stream_id=n, outbound_flow_control_window=10 * MOST, closed=False)
            for n in (1, 3)
        )

    def wake(self):
        self.wakes += 1


@pytest.fixture
def connection():
    return Connection()


def parsed(data):
    """Return the DATA frames in `data`: (stream, flags, body)."""
    found = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append((frame.stream_id, set(frame.flags), frame.data))
        data = data[9 + length :]
    return found


def test_frames_go_together_and_in_order(connection):
    """What is handed over before one write is one piece of bytes, and wakes one task."""
    one, two = connection.one, connection.two
    for stream, data in [(one, b"a"), (two, b"b"), (one, b"c" * 300), (two, b"d")]:
        assert connection.frames.add(stream, data)
    assert connection.wakes == 1
    expected = [(1, b"a"), (3, b"b"), (1, b"c" * 300), (3, b"d")]
    taken = parsed(connection.frames.take())
    assert taken == [(number, set(), data) for number, data in expected]
    assert connection.frames.take() == b""
    connection.frames.add(one, b"e")
    assert connection.wakes == 2


def test_windows_are_counted(connection):
    """A frame takes of both windows what it has, as h2 counts what it sends itself."""
    connection.frames.add(connection.one, b"x" * 1000)
    assert connection.outbound_flow_control_window == 10 * MOST - 1000
    assert connection.one.outbound_flow_control_window == 10 * MOST - 1000
    assert connection.two.outbound_flow_control_window == 10 * MOST


def test_the_last_byte_of_a_window_may_be_used(connection):
    """A frame as large as the window goes; of the next one nothing does."""
    connection.one.outbound_flow_control_window = 5
    assert connection.frames.add(connection.one, b"12345")
    assert not connection.frames.add(connection.one, b"6")


@pytest.mark.parametrize(
    ("whose", "name", "value"),
    [
        ("one", "outbound_flow_control_window", 9),
        ("one", "outbound_flow_control_window", -100),  # RFC 9113 § 6.9.2: settings may do that
        ("one", "closed", True),
        (None, "outbound_flow_control_window", 9),
        (None, "max_outbound_frame_size", 9),
        (None, "is_busy", True),
    ],
)
def test_what_can_not_go_now_is_refused(connection, whose, name, value):
    """It changes nothing, and wakes nobody: the event goes through its client's buffer."""
    owner = getattr(connection, whose) if whose else connection
    setattr(owner, name, value)
    before = connection.outbound_flow_control_window
    assert not connection.frames.add(connection.one, b"0123456789")
    assert connection.outbound_flow_control_window == before
    assert connection.wakes == 0
    assert connection.frames.take() == b""


def test_what_waits_for_one_write_is_bounded(connection):
    """A publisher that never lets others run holds 64 KiB of a connection, and no more."""
    taken = 0
    while connection.frames.add(connection.one, b"x" * 1000):
        taken += 1000
    assert MOST - 1000 < taken <= MOST
    connection.frames.take()
    assert connection.frames.add(connection.one, b"x" * 1000)


@pytest.fixture
def response(connection):
    """Return the direct writes of a response whose first bytes have gone out."""
    buffer = SimpleNamespace(buffer=bytearray(), completed=False)
    direct_write = StreamDirectWrite(connection.frames, connection.one, buffer)
    head = {"type": "http.response.start", "status": 200, "headers": []}
    assert not direct_write.write(b"x"), "before the head"
    direct_write.arrive(head)
    direct_write.arrived(head)
    assert not direct_write.write(b"x"), "before the first of the body"
    body = b"first"
    direct_write.hand_over(body)
    message = {"type": "http.response.body", "body": body, "more_body": True}
    direct_write.arrive(message)
    direct_write.arrived(message)
    return direct_write


def test_a_response_that_waits_is_written_to(connection, response):
    """Bytes go as they are: the frame is each client's own."""
    assert response.framing == UNFRAMED
    assert response.framing.frame([b"a", b"b"]) == b"ab"
    assert response.write(b"ab")
    assert parsed(connection.frames.take()) == [(1, set(), b"ab")]


def test_what_is_in_the_buffer_goes_first(connection, response):
    """While the stream has bytes that its windows let not through, events follow them there."""
    response._buffer.buffer += b"rest"
    assert not response.write(b"x")
    response._buffer.buffer.clear()
    assert response.write(b"x")


def test_nothing_follows_the_end(connection, response):
    """Neither when the end is in the buffer, nor when the response or its stream has ended."""
    response._buffer.completed = True
    assert not response.write(b"x")
    response._buffer.completed = False
    response.end()
    assert not response.write(b"x")
    assert response.why_not is NotDirect.ENDED


def test_what_is_on_its_way_goes_first(connection, response):
    """Between what the stream hands over and its arrival nothing goes past it."""
    response.hand_over(b"second")
    assert not response.write(b"x")
