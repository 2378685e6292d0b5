"""Downloads: a name for the file, and gzip for the clients that ask for it."""

import gzip
import json
import re
import zlib
from urllib.parse import unquote

import pytest
import trio

import flowstream
from flowstream import (
    CloseReason,
    Limits,
    Topic,
    csv,
    ndjson,
    raw,
    sse,
)
from flowstream.asgi._compression import accepts_gzip, gzip_headers
from flowstream.asgi._disposition import attachment
from flowstream.testing import collect, open_stream

ROWS = [{"n": n, "name": f"name {n}"} for n in range(2000)]
ASKS = {"Accept-Encoding": "gzip, deflate, br"}


# -- the name --------------------------------------------------------------------------------------


def disposition(response):
    return dict(response.headers)[b"content-disposition"].decode("ascii")


@pytest.mark.parametrize("make", [csv, ndjson, raw, sse])
def test_a_name_beyond_latin_1_is_written_in_both_forms(make):
    """RFC 6266: what is ASCII for old clients, RFC 8187 for the name itself."""
    value = disposition(make([], filename="Bericht – 報告.csv"))
    assert value.startswith("attachment; filename=\"Bericht _ __.csv\"; filename*=UTF-8''")
    assert unquote(value.partition("''")[2]) == "Bericht – 報告.csv"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("report.csv", "report.csv"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\\b.csv", "a_b.csv"),
        ('a"; x="b.csv', "a_; x=_b.csv"),
        ("a\r\nSet-Cookie: x=1", "aSet-Cookie_ x=1"),
        ("a\0\x7f\x85b", "ab"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("end\u2028line", "endline"),
        (" .hidden ", "hidden"),
        ("trailing. .", "trailing"),
        ("..", "download"),
        ("", "download"),
        ("\ud800.csv", "\ufffd.csv"),
        ("100%41.csv", "100%41.csv"),
        (
            "\u2764\ufe0f\U0001f469\u200d\U0001f680.csv",
            "\u2764\ufe0f\U0001f469\u200d\U0001f680.csv",
        ),
        ("Zürich.csv", "Zürich.csv"),
    ],
)
def test_what_a_name_may_not_have_is_replaced(name, shown):
    """A path, a forged header, a hidden ending; whatever it is, it makes a header."""
    value = attachment(name)
    assert value.isascii()
    assert value.isprintable()
    plain = re.fullmatch(
        r'attachment; filename="([^"\\/]+)"(?:; filename\*=UTF-8\'\'([!-~]+))?', value
    )
    assert plain is not None
    assert (plain[1] if plain[2] is None else unquote(plain[2])) == shown


def test_a_long_name_keeps_its_ending():
    """Most file systems have room for 255 bytes."""
    value = unquote(attachment("報" * 300 + ".csv").partition("''")[2])
    assert value.endswith("報.csv")
    assert len(value.encode()) <= 240
    assert len(attachment("x" * 10000)) < 300


def test_a_name_and_the_header_at_once_are_refused():
    """Which of the two is meant, nobody knows."""
    with pytest.raises(ValueError, match="not both"):
        csv([], filename="a.csv", headers={"Content-Disposition": "inline"})
    with pytest.raises(TypeError, match="filename must be a str, not bytes"):
        csv([], filename=b"a.csv")


def test_a_header_beyond_latin_1_is_refused_with_what_to_write():
    """The message names the argument, and what it makes."""
    with pytest.raises(ValueError, match=r"filename=.*filename\*=UTF-8"):
        csv([], headers={"Content-Disposition": 'attachment; filename="報告.csv"'})


# -- who gets gzip ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("*", True),
        ("*;q=0", False),
        ("identity", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("gzip; q=0.5", True),
        ("gzip;q=0.001", True),
        ("gzip;q=2", False),
        ("gzip;q=-1", False),
        ("gzip;q=nan", False),
        ("gzip;q=", False),
        ("gzip;level=1", False),
        ("gzipped", False),
        ("br", False),
        (", ,gzip,", True),
    ],
)
def test_gzip_is_for_those_who_ask(asked, given):
    """RFC 9110 § 12.5.3, weights included; what can't be read asks for nothing."""
    headers = [] if asked is None else [(b"Accept-Encoding", asked.encode())]
    assert accepts_gzip({"headers": headers}) is given


def test_two_lines_of_the_header_are_one_list():
    """RFC 9110 § 5.3."""
    headers = [(b"accept-encoding", b"br"), (b"accept-encoding", b"gzip")]
    assert accepts_gzip({"headers": headers})


async def test_the_same_table_in_gzip_and_plain():
    """And each answer says that the other exists, for caches."""
    plain = await collect(csv(ROWS, compress="gzip"))
    coded = await collect(csv(ROWS, compress="gzip"), headers=ASKS)
    assert "content-encoding" not in plain.headers
    assert coded.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == coded.headers["vary"] == "accept-encoding"
    assert gzip.decompress(coded.body) == plain.body
    assert len(coded.body) < len(plain.body) / 3
    assert coded.complete


async def test_without_the_argument_nothing_is_compressed():
    """A client that asks is not enough."""
    answer = await collect(csv(ROWS), headers=ASKS)
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_head_is_told_what_a_get_would_be(method):
    """RFC 9110 § 9.3.2: the same header fields."""
    response = csv(ROWS, compress="gzip", filename="a.csv")
    answer = await collect(response, method=method, headers=ASKS)
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-length" not in answer.headers
    assert answer.headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert (answer.body == b"") is (method == "HEAD")


async def read_through(client, reader, end):
    """Return what a client has unpacked when it has `end`."""
    got = b""
    while end not in got:
        got += reader.decompress(await client.read(1))
    return got


async def test_an_item_arrives_at_once(autojump_clock):
    """Every write is flushed: what was sent can be read before there is more."""

    async def slowly():
        yield {"n": 1}
        await trio.sleep(10)
        yield {"n": 2}

    reader = zlib.decompressobj(31)
    async with open_stream(
        ndjson(slowly(), compress="gzip", heartbeat=None), headers=ASKS
    ) as client:
        start = trio.current_time()
        assert await read_through(client, reader, b"\n") == b'{"n":1}\n'
        assert trio.current_time() == start
        assert await read_through(client, reader, b"\n") == b'{"n":2}\n'
        assert trio.current_time() == start + 10


@pytest.mark.parametrize("make", [csv, raw])
async def test_an_export_that_fails_does_not_look_whole(make):
    """Neither to who reads HTTP, nor to who only unpacks what came."""

    async def failing():
        for n in range(100):
            yield f"{n}\n".encode() if make is raw else {"n": n}
        raise OSError("the database has gone")

    answer = await collect(make(failing(), compress="gzip"), headers=ASKS)
    assert not answer.complete
    with pytest.raises(EOFError):
        gzip.decompress(answer.body)
    assert b"98" in zlib.decompressobj(31).decompress(answer.body)  # but for what was sent


async def test_a_failure_that_is_told_in_band_ends_in_order():
    """NDJSON says ``failed`` itself: the stream of gzip is whole, and the answer."""

    async def failing():
        yield {"n": 1}
        raise OSError("gone")

    answer = await collect(ndjson(failing(), compress="gzip"), headers=ASKS)
    assert answer.complete
    assert json.loads(gzip.decompress(answer.body).splitlines()[-1])["type"] == "failed"


async def test_a_bound_in_bytes_is_that_of_what_is_compressed():
    """So a stream ends at the same item for every client; the report counts what was sent."""
    reports = []

    def export():
        limits = Limits(max_bytes=1000)
        return ndjson(ROWS, compress="gzip", controls=False, limits=limits, on_close=reports.append)

    plain = await collect(export())
    coded = await collect(export(), headers=ASKS)
    assert zlib.decompressobj(31).decompress(coded.body) == plain.body
    assert not plain.complete
    assert not coded.complete
    assert [report.reason for report in reports] == [CloseReason.MAX_BYTES] * 2
    assert [report.bytes for report in reports] == [len(plain.body), len(coded.body)]
    assert reports[0].items == reports[1].items > 0


async def test_an_empty_export_is_whole():
    """No rows are a result."""
    answer = await collect(csv([], compress="gzip", columns=["a"]), headers=ASKS)
    assert gzip.decompress(answer.body) == b"a\r\n"
    assert gzip.decompress((await collect(raw([], compress="gzip"), headers=ASKS)).body) == b""


async def test_large_items_are_compressed_in_pieces():
    """Exactly, and in writes that a slow client can take."""
    item = bytes(range(256)) * 4096
    answer = await collect(raw([item, item], compress="gzip"), headers=ASKS)
    assert gzip.decompress(answer.body) == item + item


async def test_a_topic_is_not_written_past_a_stream_that_compresses():
    """Bytes that the publisher shares with others would stand in the middle of the gzip."""
    topic = Topic("numbers")
    async with open_stream(
        sse(topic, compress="gzip", limits=Limits(max_duration=5)), headers=ASKS
    ) as client:
        reader = zlib.decompressobj(31)
        got = await read_through(client, reader, b"connected\n\n")
        for n in range(3):
            await topic.publish({"n": n})
        got += await read_through(client, reader, b'{"n":2}')
    assert got.count(b"\ndata: ") == 3


def test_what_is_encoded_or_a_part_is_left_as_it_is():
    """A range counts the bytes of the whole as they are."""
    assert gzip_headers([(b"content-encoding", b"br")]) is None
    assert gzip_headers([(b"content-range", b"bytes 0-1/5")]) is None
    head = [(b"etag", b'"a"'), (b"accept-ranges", b"bytes"), (b"content-length", b"5")]
    assert gzip_headers(head) == [(b"etag", b'W/"a"'), (b"content-encoding", b"gzip")]
    assert gzip_headers([(b"etag", b'W/"a"')])[0] == (b"etag", b'W/"a"')


@pytest.mark.parametrize("wrong", ["br", True, "GZIP"])
def test_another_compression_is_refused(wrong):
    """At the call, with what there is."""
    with pytest.raises(ValueError, match="compress must be 'gzip'"):
        csv([], compress=wrong)


def test_an_app_keeps_its_own_vary():
    """One line is added to what it says."""
    headers = csv([], headers={"Vary": "Origin"}, compress="gzip").headers
    assert [value for name, value in headers if name == b"vary"] == [b"Origin", b"accept-encoding"]


def test_stream_takes_them_too():
    """They are options of every stream."""
    response = flowstream.stream([], encoder=flowstream.NDJSON(), filename="a", compress="gzip")
    assert disposition(response) == 'attachment; filename="a"'
