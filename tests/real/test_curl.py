"""curl: reads, is interrupted, and knows half an export from a whole one."""

import signal
import subprocess

import pytest
import trio

from flowstream import CloseReason, csv, ndjson, raw, sse


@pytest.fixture
def curl(program):
    """Run curl to its end."""
    path = program("curl")

    async def run(*arguments):
        with trio.fail_after(20):
            return await trio.run_process(
                [path, "-sS", "-N", *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

    return run


async def test_it_reads_a_stream_to_its_end(server, curl, clean_log):
    """Every event arrives, in order, and curl exits 0."""

    async def app(scope, receive, send):
        await ndjson(list(range(1000)), controls=False)(scope, receive, send)

    result = await curl(await server(app))
    assert result.stdout == b"".join(b"%d\n" % n for n in range(1000))
    assert (result.returncode, result.stderr) == (0, b"")


async def test_events_arrive_as_they_are_made(server, program, clean_log):
    """With -N an event is on curl's output while the producer still waits for the next."""
    more = trio.Event()

    async def produce(out):
        await out.send("first")
        await more.wait()
        await out.send("second")

    async def app(scope, receive, send):
        await sse(produce)(scope, receive, send)

    command = [program("curl"), "-sS", "-N", await server(app)]
    with trio.fail_after(20):
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        seen = b""
        async with process.stdout:
            async for data in process.stdout:
                seen += data
                if b"data: first\n\n" in seen:
                    more.set()
        assert b"data: second\n\n" in seen
        assert await process.wait() == 0


async def test_ctrl_c_in_the_middle(server, program, clean_log, aeventually):
    """SIGINT to curl cancels the producer, and its finally has run."""
    cleaned, reports = trio.Event(), []

    async def endless():
        n = 0
        try:
            while True:
                yield n
                n += 1
                await trio.sleep(0.001)
        finally:
            await trio.sleep(0.001)
            cleaned.set()

    async def app(scope, receive, send):
        await ndjson(endless, on_close=reports.append)(scope, receive, send)

    command = [program("curl"), "-sS", "-N", await server(app)]
    with trio.fail_after(20):
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        async with process.stdout:
            await process.stdout.receive_some()
            process.send_signal(signal.SIGINT)
            await process.wait()
            await cleaned.wait()
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


@pytest.mark.parametrize("make", [csv, raw])
async def test_half_an_export_exits_18(server, curl, make, caplog):
    """When the producer of a CSV or raw stream fails, curl has what came and exits 18."""

    async def rows():
        yield [1, 2] if make is csv else b"1,2\r\n"
        raise ValueError("the database went away")

    async def app(scope, receive, send):
        await make(rows)(scope, receive, send)

    result = await curl(await server(app))
    assert result.returncode == 18
    assert result.stdout == b"1,2\r\n"
    assert "the database went away" in caplog.text


async def test_a_whole_export_exits_0(server, curl, clean_log):
    """A CSV stream that is complete ends as curl expects."""

    async def app(scope, receive, send):
        await csv([{"a": 1, "b": 2}])(scope, receive, send)

    result = await curl(await server(app))
    assert (result.returncode, result.stdout) == (0, b"a,b\r\n1,2\r\n")


async def test_head(server, curl, clean_log):
    """curl -I has the headers at once and needs no body."""

    async def never(out):
        raise AssertionError("called")

    async def app(scope, receive, send):
        await sse(never)(scope, receive, send)

    result = await curl("-I", await server(app))
    assert result.returncode == 0
    assert result.stdout.startswith(b"HTTP/1.1 200")
    assert b"content-type: text/event-stream" in result.stdout


async def test_http_1_0(server, curl, clean_log):
    """A client of HTTP/1.0, which knows no chunks, reads to the end of the connection."""

    async def app(scope, receive, send):
        await ndjson([1, 2, 3], controls=False)(scope, receive, send)

    result = await curl("--http1.0", "-i", await server(app))
    assert result.returncode == 0
    head, _, body = result.stdout.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"1\n2\n3\n"


async def test_http_2_by_prior_knowledge(server, curl, clean_log):
    """curl over cleartext HTTP/2 reads a stream to its end."""

    async def app(scope, receive, send):
        await ndjson(list(range(500)), controls=False)(scope, receive, send)

    result = await curl("--http2-prior-knowledge", "-w", "%{http_version}", await server(app))
    assert result.returncode == 0
    assert result.stdout.endswith(b"499\n2")


async def test_an_upload_that_is_answered_meanwhile(server, curl, clean_log, tmp_path):
    """A POST body of 5 MB goes through a producer that reads it, byte for byte."""
    from flowstream import SharedReceive

    data = bytes(range(256)) * 20_000
    (tmp_path / "data").write_bytes(data)

    async def app(scope, receive, send):
        shared = SharedReceive(receive)

        async def upper():
            more = True
            while more:
                message = await shared()
                more = message.get("more_body", False)
                if body := message.get("body"):
                    yield body

        await raw(upper)(scope, shared, send)

    url = await server(app)
    result = await curl("--data-binary", f"@{tmp_path / 'data'}", "-H", "Expect:", url)
    assert result.returncode == 0
    assert result.stdout == data
