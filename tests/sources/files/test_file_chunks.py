"""Files: whole or in part, the very bytes that were promised, and nothing left open."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quart import request
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Route

from flowstream import CloseReason, DropOldest, Limits, NotFoundError, PublicError, ndjson, raw
from flowstream.quart import Flowstream
from flowstream.sources import file_chunks
from flowstream.sources.files import _file_chunks as files
from flowstream.sources.files._ranges import asked_range
from flowstream.testing import collect, open_stream

CONTENT = os.urandom(3_000_001)  # more than a buffer holds
MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with `CONTENT` in it."""
    file = tmp_path / "film.bin"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def reports():
    """A list for ``on_close``."""
    return []


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files have not changed for long: their validators are strong."""
    monkeypatch.setattr(files, "_SETTLED_SECONDS", 0)


def serving(path, reports=None, **options):
    """Return an app that serves the file."""

    async def app(scope, receive, send):
        if reports is not None:
            options["on_close"] = reports.append
        await raw(file_chunks(path, scope), **options)(scope, receive, send)

    return app


def open_files(path):
    """Return how many descriptors of this process are of `path`."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}") == os.fspath(path)
        except OSError:
            continue
    return found


# -- which part ------------------------------------------------------------------------------

NUMBER = st.integers(0, 40)
SPEC = st.one_of(
    st.tuples(NUMBER, st.one_of(st.none(), NUMBER)),
    st.tuples(st.none(), NUMBER),
)


@given(st.lists(SPEC, min_size=1, max_size=3), st.integers(0, 30), st.data())
def test_a_range_is_what_the_letter_of_the_standard_says(specs, size, data):
    """Computed position by position, for all valid and invalid headers in bytes."""
    blank = st.sampled_from(["", " ", "\t", ", "])
    text = "".join(
        f"{data.draw(blank)}{'' if first is None else first}-{'' if last is None else last},"
        for first, last in specs
    )
    expected: list[list[int] | None] = []
    for first, last in specs:
        if first is None:
            expected.append([n for n in range(size) if size - n <= last])
        elif last is not None and last < first:
            expected.append(None)
        else:
            expected.append([n for n in range(size) if n >= first and (last is None or n <= last)])
    result = asked_range("bytes=" + text, size)
    if size == 0 or None in expected:
        assert result is None
    elif not any(expected):
        assert result is not None
        assert not result
    elif len(expected) == 1:
        assert result is not None
        assert list(result) == expected[0]
    else:
        assert result is None


@given(st.text(alphabet="bytes=0123456789-, \tx", max_size=40), st.integers(0, 2000))
def test_no_range_header_breaks_anything(header, size):
    """What comes out is a part of the file or the whole, whatever goes in."""
    result = asked_range(header, size)
    if result:
        assert 0 <= result.start < result.stop <= size
        assert result.step == 1


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-", range(1000)),
        ("BYTES=0-0", range(1)),
        ("bytes= 5-7 ,", range(5, 8)),
        ("bytes=-1", range(999, 1000)),
        ("bytes=-0", range(0)),
        ("bytes=1000-", range(0)),
        ("bytes=" + "9" * 6000 + "-", range(0)),
        ("bytes=" + "0" * 6000 + "1-" + "9" * 6000, range(1, 1000)),
        ("bytes=-" + "9" * 6000, range(1000)),
        ("bytes=0-1,5-6", None),
        ("bytes=0-1,2000-", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5", None),
        ("bytes=7-5", None),
        ("bytes=+1-5", None),
        ("bytes=1_0-20", None),
        ("bytes=\u0661-\u0662", None),
        ("bytes =0-1", None),
        ("lines=0-1", None),
    ],
)
def test_a_range_header_by_example(header, expected):
    """The cases that servers are known to get wrong."""
    assert asked_range(header, 1000) == expected


# -- the response ----------------------------------------------------------------------------


async def test_the_whole_file_has_its_length(path, reports, settled):
    """A client can show progress, go on later, and ask for a part."""
    answer = await collect(serving(path, reports))
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["last-modified"].endswith(" GMT")
    assert reports[0].reason is CloseReason.COMPLETED


@pytest.mark.parametrize(
    ("header", "status", "span"),
    [
        ("bytes=5-9", 206, (5, 10)),
        ("bytes=2999990-", 206, (2999990, 3000001)),
        ("bytes=-7", 206, (2999994, 3000001)),
        ("bytes=0-9999999", 206, (0, 3000001)),
        ("bytes=3000001-", 416, None),
        ("nonsense", 200, (0, 3000001)),
    ],
)
async def test_a_part_is_served_as_a_part(path, header, status, span):
    """Status, Content-Range, Content-Length and the very bytes."""
    answer = await collect(serving(path), headers={"Range": header})
    assert answer.status == status
    assert answer.complete
    expected = CONTENT[slice(*span)] if span else b""
    assert answer.body == expected
    assert answer.headers["content-length"] == str(len(expected))
    content_range = {
        200: None,
        206: span and f"bytes {span[0]}-{span[1] - 1}/3000001",
        416: "bytes */3000001",
    }
    assert answer.headers.get("content-range") == content_range[status]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_chunks_of_any_size_make_the_same_bytes(tmp_path, data):
    """However it is cut, what comes is the part of the file that was asked for."""
    content = bytes(data.draw(st.binary(min_size=1, max_size=300)))
    (tmp_path / "some").write_bytes(content)
    chunk = data.draw(st.integers(1, 400))
    first = data.draw(st.integers(0, len(content) - 1))
    source = file_chunks(tmp_path / "some", range=f"bytes={first}-", chunk=chunk)
    answer = await collect(raw(source))
    assert answer.body == content[first:]
    assert source.length == len(content) - first


async def test_an_empty_file_is_whole_whatever_is_asked(tmp_path):
    """Clients that ask for `bytes=0-` of everything are served."""
    (tmp_path / "empty").touch()
    answer = await collect(serving(tmp_path / "empty"), headers={"Range": "bytes=0-"})
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


async def test_a_head_gets_the_head_of_a_get_without_a_range(path, settled):
    """RFC 9110 § 14.2: only a GET has ranges; and the file is not opened."""
    whole = await collect(serving(path))
    head = await collect(serving(path), method="HEAD", headers={"Range": "bytes=1-2"})
    assert (head.status, head.body) == (200, b"")
    assert head.headers.raw == whole.headers.raw


async def test_if_range_holds_for_the_very_file(path, settled):
    """By its tag or its date; of another the client gets the whole."""
    first = await collect(serving(path))
    for validator in (first.headers["etag"], first.headers["last-modified"]):
        headers = {"Range": "bytes=5-9", "If-Range": validator}
        assert (await collect(serving(path), headers=headers)).status == 206
    status = os.stat(path)
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync and tar do
    headers = {"Range": "bytes=5-9", "If-Range": first.headers["etag"]}
    answer = await collect(serving(path), headers=headers)
    assert (answer.status, answer.body) == (200, CONTENT[::-1])


@pytest.mark.parametrize(
    "change",
    [
        lambda tag, date: f"W/{tag}",
        lambda tag, date: '"another"',
        lambda tag, date: tag[1:-1],
        lambda tag, date: f"{tag}, {tag}",
        lambda tag, date: date.replace("GMT", "UTC"),
        lambda tag, date: "Sun, 06 Nov 1994 08:49:37 GMT",
        lambda tag, date: "",
    ],
)
async def test_if_range_is_compared_strongly(path, change, settled):
    """A weak tag, another one, half of one: all get the whole (RFC 9110 § 13.1.5)."""
    first = await collect(serving(path))
    validator = change(first.headers["etag"], first.headers["last-modified"])
    headers = {"Range": "bytes=5-9", "If-Range": validator}
    assert (await collect(serving(path), headers=headers)).status == 200


async def test_a_file_that_has_just_changed_has_a_weak_tag_and_no_date(path):
    """Neither would show another change in the same tick of the clock, so no part is trusted."""
    first = await collect(serving(path))
    assert first.headers["etag"].startswith('W/"')
    assert "last-modified" not in first.headers
    headers = {"Range": "bytes=5-9", "If-Range": first.headers["etag"]}
    assert (await collect(serving(path), headers=headers)).status == 200


async def test_a_date_in_the_future_is_not_told(path, settled):
    """RFC 9110 § 8.8.2.1: a Last-Modified is never later than the message."""
    os.utime(path, (4e9, 4e9))
    answer = await collect(serving(path))
    assert "last-modified" not in answer.headers
    assert answer.headers["etag"].startswith('"')


async def test_only_bytes_as_they_are_have_a_length(path):
    """A format that writes around them has none; nor has a stream that may drop some."""
    assert file_chunks(path).length == len(CONTENT)
    assert b"content-length" not in dict(ndjson(file_chunks(path)).headers)
    dropping = raw(file_chunks(path), policy=DropOldest())
    assert b"content-length" not in dict(dropping.headers)


def quart_app(path):
    app = QuartTrio(__name__)
    Flowstream(app)

    @app.get("/")
    async def view():
        return raw(file_chunks(path, request), media_type="video/mp4")

    @app.get("/missing")
    async def missing():
        return raw(file_chunks(path.with_name("missing"), request))

    return app


def starlette_app(path):
    async def view(request):
        return raw(file_chunks(path, request), media_type="video/mp4")

    return Starlette(routes=[Route("/", view)])


@pytest.mark.parametrize("make", [quart_app, starlette_app])
async def test_the_request_of_a_framework_is_taken_as_it_is(path, make):
    """Quart's and Starlette's: part, whole and HEAD."""
    app = make(path)
    part = await collect(app, headers={"Range": "bytes=5-9"})
    assert (part.status, part.body) == (206, CONTENT[5:10])
    assert part.headers["content-type"] == "video/mp4"
    assert part.headers["content-length"] == "5"
    assert (await collect(app)).body == CONTENT
    head = await collect(app, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(CONTENT)))


async def test_a_missing_file_is_a_404_of_the_view(path):
    """And says nothing of where it was looked for."""
    answer = await collect(quart_app(path), "/missing")
    assert answer.status == 404
    assert b"not_found" in answer.body
    assert b"tmp" not in answer.body


# -- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["missing", ".", "film.bin/x", "a\0b", "x" * 300, "loop", "fifo"])
def test_what_is_no_file_is_not_found(path, name):
    """Nothing, a directory, a FIFO, a loop, an impossible name: at the call, without waiting."""
    (path.parent / "loop").symlink_to("loop")
    os.mkfifo(path.parent / "fifo")
    with pytest.raises(NotFoundError):
        file_chunks(os.path.join(path.parent, name))


def test_what_may_not_be_read_is_forbidden(path, monkeypatch):
    """At the call, as 403."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PublicError) as caught:
        file_chunks(path)
    assert (caught.value.status, caught.value.code) == (403, "forbidden")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"chunk": 0}, ValueError),
        ({"chunk": MIB}, ValueError),
        ({"chunk": True}, TypeError),
        ({"request": {"type": "http", "method": "GET", "headers": []}, "range": "x"}, TypeError),
        ({"request": object()}, TypeError),
    ],
)
def test_arguments_are_checked_at_the_call(path, arguments, error):
    """With an error that says what is wrong."""
    with pytest.raises(error):
        file_chunks(path, **arguments)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda path: path.unlink(), 404, b"not_found"),
        (lambda path: path.write_bytes(CONTENT[:-1]), 503, b"file_changed"),
        (lambda path: path.write_bytes(CONTENT[::-1]), 503, b"file_changed"),
    ],
)
async def test_another_file_in_its_place_is_told_before_the_first_byte(path, change, status, code):
    """What the response has promised is of the file that was looked at, and of no other."""
    response = raw(file_chunks(path), prime=5)
    os.utime(path, (1, 1))
    change(path)
    answer = await collect(response)
    assert answer.status == status
    assert code in answer.body


async def test_a_file_that_was_replaced_is_not_taken_for_it(path):
    """By one of the same size and time: it has another inode."""
    response = raw(file_chunks(path), prime=5)
    status = os.stat(path)
    other = path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert (await collect(response)).status == 503


async def test_a_file_that_shrinks_is_cut(path, reports):
    """The client gets fewer bytes than it was promised, and no end of the body."""
    async with open_stream(serving(path, reports), window=100) as client:
        await client.wait_blocked()
        os.truncate(path, 2_500_000)
        body = await client.read_all()
        assert not client.complete
    assert body == CONTENT[: len(body)]
    assert len(body) <= 2_500_000
    assert reports[0].reason is CloseReason.ERROR
    assert reports[0].error.code == "file_changed"


async def test_a_file_that_grows_gives_what_was_promised(path, reports):
    """Between the call and the stream, and while it is read."""
    async with open_stream(serving(path, reports), window=100) as client:
        await client.wait_blocked()
        with path.open("ab") as file:
            file.write(b"more")
        assert await client.read_all() == CONTENT
        assert client.complete
    response = raw(file_chunks(path))
    with path.open("ab") as file:
        file.write(b"and more")
    assert (await collect(response)).body == CONTENT + b"more"


# -- what is held ----------------------------------------------------------------------------


async def test_it_is_opened_late_and_closed_always(path):
    """Not by the call; closed behind a whole stream, an abort, and what never ran."""
    file_chunks(path)
    responses = [raw(file_chunks(path)) for _ in range(3)]
    assert open_files(path) == 0
    await collect(responses[0])
    async with open_stream(responses[1], window=100) as client:
        await client.wait_blocked()
        assert open_files(path) == 1
    await collect(responses[2], method="HEAD")
    assert open_files(path) == 0


async def test_two_hundred_aborts_leave_no_descriptor(path):
    """Wherever in the file they come."""
    app = serving(path)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(200):
        async with open_stream(app, window=n * 10_000) as client:
            await client.started()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_what_is_read_ahead_is_bounded(path, monkeypatch):
    """For a client that does not read: the buffer, and a batch on its way to it."""
    path.write_bytes(bytes(8 * MIB))
    read = 0
    pread = os.pread

    def counting(fd, size, at):
        nonlocal read
        read += size
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", counting)
    async with open_stream(serving(path), window=0) as client:
        await client.wait_blocked()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert MIB <= read <= 2 * MIB


async def test_a_slow_disk_holds_up_neither_the_loop_nor_the_abort(path, monkeypatch, aeventually):
    """The thread that hangs in the read is left alone, and closes the file when it is out."""
    hangs, go_on = threading.Event(), threading.Event()
    pread = os.pread

    def hanging(*arguments):
        hangs.set()
        assert go_on.wait(30)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", hanging)
    limits = Limits(cleanup_timeout=0.05)
    async with open_stream(serving(path, limits=limits)) as client:
        await client.started()
        await aeventually(hangs.is_set, "the read begins")
    assert client.finished
    assert open_files(path) == 1
    go_on.set()
    await aeventually(lambda: open_files(path) == 0, "the file is closed")


# -- on a socket -----------------------------------------------------------------------------


@pytest.fixture
async def curl(program, server, path, reports, tmp_path):
    """Run curl against a server that serves the file; return what it wrote to stdout."""
    url = await server(serving(path, reports))

    async def run(*arguments, code=0):
        with trio.fail_after(20):
            done = await trio.run_process(
                [program("curl"), "-sS", "--max-time", "15", *arguments, url],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=tmp_path,
            )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
async def test_curl_gets_the_file_by_its_length(curl, reports, version, aeventually):
    """In every version of HTTP; the report says completed though curl leaves at the last byte."""
    assert await curl(version) == CONTENT
    head = (await curl(version, "-I")).lower()
    assert b"content-length: 3000001\r\n" in head
    assert b"transfer-encoding" not in head
    assert await curl(version, "-r", "1000-1999999") == CONTENT[1000:2000000]
    assert await curl(version, "-r", "-3") == CONTENT[-3:]
    await aeventually(lambda: len(reports) == 4, "every stream has its report")
    reasons = [report.reason for report in reports]
    assert reasons.count(CloseReason.COMPLETED) == 3
    assert reasons.count(CloseReason.REFUSED) == 1


async def test_curl_resumes_a_download(curl, tmp_path):
    """What was cut off goes on where it was, and is the file to the byte."""
    await curl("-o", "part", "--range", "0-1234567")
    await curl("-o", "part", "-C", "-")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert b" 416 " in await curl("-i", "-r", "3000001-")


async def test_curl_knows_a_file_that_shrank_from_a_whole_one(curl, path, monkeypatch, reports):
    """It says that bytes are outstanding, and fails."""
    pread = os.pread

    def shrinking(fd, size, at):
        return pread(fd, size, at) if at < MIB else b""

    monkeypatch.setattr(os, "pread", shrinking)
    for options, code in (((), 18), (("--http2-prior-knowledge",), 92)):
        body = await curl(*options, code=code)
        # What had not arrived when the response was cut off is not waited for.
        assert len(body) <= MIB
        assert CONTENT.startswith(body)
    assert [report.reason for report in reports] == [CloseReason.ERROR] * 2


async def test_a_connection_is_used_again(server, path, client):
    """The length ends the body: the next answer follows on the same connection."""
    with client(await server(serving(path))) as one:
        for first in (10, 20):
            await trio.to_thread.run_sync(one.get, "/", f"Range: bytes={first}-{first + 4}")
            text = await trio.to_thread.run_sync(one.read_until, CONTENT[first : first + 5])
            assert text.startswith(b"HTTP/1.1 206")
