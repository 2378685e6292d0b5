"""What an HTTP/2 client sets takes a bounded amount of memory, whatever it sets."""

import contextlib
import struct

import h2.config
import h2.connection
import pytest
import trio
import trio.testing
from fuzzing.http2 import CONTINUATION, HEADERS, SETTINGS, frame
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from flowstream.server.http2 import _http2
from flowstream.server.http2._peer_settings import PeerSettings, forget_table_sizes, keep_little


async def hello(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def connections(monkeypatch):
    """Return h2's connections of the servers that follow, once they have settings."""
    found = {}

    def noted(connection):
        found[id(connection)] = connection
        forget_table_sizes(connection)

    monkeypatch.setattr(_http2, "forget_table_sizes", noted)
    return found.values()


async def test_unknown_settings_are_not_kept(server, http2, connections):
    """3,000 ids that nobody knows leave nothing behind, and the connection goes on."""
    peer = await http2(await server(hello))
    for start in range(100, 3100, 25):
        unknown = [struct.pack(">HL", number, 7) for number in range(start, start + 25)]
        await peer.flush(frame(SETTINGS, 0, 0, b"".join(unknown)))
    await peer.fence()
    (connection,) = connections
    assert {*connection.remote_settings} <= {*SettingCodes}
    assert await peer.finished(await peer.get()) == b"hello"


async def test_table_sizes_are_not_kept(server, http2, connections):
    """The size of the table of headers may change as often as a client likes."""
    peer = await http2(await server(hello))
    size = SettingCodes.HEADER_TABLE_SIZE
    await peer.send(*[SettingsFrame(0, settings={size: number % 7}) for number in range(3000)])
    await peer.send(SettingsFrame(0, settings={size: 1 << 31}))
    await peer.fence()
    (connection,) = connections
    assert len(connection.encoder.table_size_changes) <= 3
    assert connection.encoder.header_table_size == 4096
    assert await peer.finished(await peer.get()) == b"hello"


def test_what_the_client_is_told():
    """Of many sizes the smallest and the last one are left (RFC 7541 § 4.2)."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    for sizes, left in (([], []), ([9], [9]), ([9, 5, 7], [5, 7]), ([9, 7, 8, 0], [0, 0])):
        connection.encoder.table_size_changes = list(sizes)
        forget_table_sizes(connection)
        assert connection.encoder.table_size_changes == left


def test_closed_streams():
    """How a stream was closed is remembered of some 2,000, not of all that there were."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    keep_little(connection, 20_000)
    client = h2.connection.H2Connection(h2.config.H2Configuration())
    client.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
    for stream in range(1, 5001, 2):
        client.send_headers(stream, head, end_stream=True)
        client.reset_stream(stream)
        connection.receive_data(client.data_to_send())
    connection.data_to_send()
    assert len(connection._closed_streams) == 2000
    late = WindowUpdateFrame(4001, window_increment=1)
    assert connection.receive_data(late.serialize()) == []


def test_known_settings():
    """Those that HTTP/2 knows count as before; the table of headers is no larger than at first."""
    settings = PeerSettings()
    settings.update({SettingCodes.INITIAL_WINDOW_SIZE: 5, SettingCodes.HEADER_TABLE_SIZE: 1 << 31})
    settings.acknowledge()
    assert settings.initial_window_size == 5
    assert settings.header_table_size == 4096


def literal(name, value):
    """Return a field as HPACK has it, without a table, for lengths up to 254."""
    assert len(value) < 255
    short = bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])
    return b"\x00" + bytes([len(name)]) + name + short + value


BEGIN = b"\x82\x84\x86\x41\x01x"  # :method GET, :path /, :scheme http, :authority x
FIELDS = b"".join(literal(b"x%03d" % number, b"v" * 200) for number in range(500))


async def test_a_head_without_end(server, http2):
    """Of a header block that goes on and on no more is taken than a head may have."""
    url = await server(hello)
    other, peer = await http2(url), await http2(url)
    await peer.fence()
    await peer.flush(frame(HEADERS, 0, 1, BEGIN))
    sent = 0
    with contextlib.suppress(trio.BrokenResourceError):
        for start in range(0, len(FIELDS), 1000):
            await peer.flush(frame(CONTINUATION, 0, 1, FIELDS[start : start + 1000]))
            sent += 1000
            await trio.testing.wait_all_tasks_blocked(0.005)
    assert sent < 40_000
    await peer.until_closed()
    assert await other.finished(await other.get()) == b"hello"


async def test_a_head_that_is_too_long(server, http2):
    """It is no longer than over HTTP/1.1, and 32 bytes for each field."""
    peer = await http2(await server(hello))
    await peer.fence()
    assert peer.h2.remote_settings.max_header_list_size == 20 * 1024
    # h2 counts this itself, of which each connection ends by GOAWAY.
    fields = [(f"x{number:03}", "v" * 200) for number in range(80)]
    assert await peer.finished(await peer.get("/", *fields)) == b"hello"
    await peer.get("/", *fields, *fields)
    await peer.until_closed()
    assert peer.goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM


async def test_heads_of_many_requests(server, http2):
    """All that are open on a connection have a bound; more are refused, and may come again."""

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await done.wait()
        await hello(scope, receive, send)

    done = trio.Event()
    peer = await http2(await server(app))
    fields = [(f"x{number}", "v" * 4000) for number in range(4)]
    numbers = [peer.open("/", *fields) for _ in range(40)]
    await peer.fence()
    assert 20 < len(peer.resets) < 30
    assert {*peer.resets.values()} == {ErrorCodes.REFUSED_STREAM}
    done.set()
    for number in set(numbers) - set(peer.resets):
        assert await peer.finished(number) == b"hello"
    assert await peer.finished(await peer.get("/", *fields)) == b"hello"
