"""Node's fetch (undici): the client of most servers that call other servers."""

import json

import pytest
import trio

from flowstream import CloseReason, csv, ndjson, sse


@pytest.fixture
def node(program):
    """Run a script with `url` in scope, and return what it printed, as JSON."""
    path = program("node", "nodejs")

    async def run(script, url):
        code = f"const url = process.argv[1]; (async () => {{ {script} }})()"
        with trio.fail_after(30):
            result = await trio.run_process(
                [path, "-e", code, url], capture_stdout=True, capture_stderr=True, check=False
            )
        assert result.returncode == 0, result.stderr.decode()
        return json.loads(result.stdout)

    return run


READ = """
    const response = await fetch(url);
    let bytes = 0, error = null;
    try {
        for await (const chunk of response.body) bytes += chunk.length;
    } catch (e) {
        error = e.cause ? e.cause.code : String(e);
    }
    console.log(JSON.stringify({status: response.status, bytes, error}));
"""


async def test_a_stream_to_its_end(server, node, clean_log, aeventually):
    """fetch reads an SSE stream to its end, without UND_ERR_SOCKET."""
    reports = []

    async def words():
        for n in range(500):
            yield f"word {n}"
            if not n % 50:
                await trio.sleep(0.001)

    async def app(scope, receive, send):
        await sse(words, on_close=reports.append)(scope, receive, send)

    result = await node(READ, await server(app))
    assert (result["status"], result["error"]) == (200, None)
    await aeventually(lambda: reports, "the report")
    assert result["bytes"] == reports[0].bytes
    assert [report.reason for report in reports] == [CloseReason.COMPLETED]


async def test_several_streams_on_a_connection(server, node, clean_log):
    """Requests one after another, which undici sends down the same socket, all end well."""
    ports = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            ports.append(scope["client"][1])
            await ndjson([1, 2, 3], controls=False)(scope, receive, send)

    texts = await node(
        "const texts = [];"
        "for (let n = 0; n < 5; n++) texts.push(await (await fetch(url)).text());"
        "console.log(JSON.stringify(texts))",
        await server(app),
    )
    assert texts == ["1\n2\n3\n"] * 5
    assert len(set(ports)) < 5


async def test_abort(server, node, clean_log, aeventually):
    """An AbortController cancels the producer."""
    reports = []

    async def endless():
        while True:
            yield "x"
            await trio.sleep(0.001)

    async def app(scope, receive, send):
        await sse(endless, on_close=reports.append)(scope, receive, send)

    name = await node(
        """
        const controller = new AbortController();
        const response = await fetch(url, {signal: controller.signal});
        let name = null;
        try {
            for await (const chunk of response.body) controller.abort();
        } catch (e) { name = e.name; }
        console.log(JSON.stringify(name));
        """,
        await server(app),
    )
    assert name == "AbortError"
    await aeventually(lambda: reports, "the report")
    assert [report.reason for report in reports] == [CloseReason.CLIENT_DISCONNECTED]


async def test_a_cut_export(server, node):
    """A CSV stream whose producer failed is an error of the socket, after what did come."""

    async def rows():
        yield [1, 2]
        raise ValueError("gone")

    async def app(scope, receive, send):
        await csv(rows)(scope, receive, send)

    result = await node(READ, await server(app))
    assert result == {"status": 200, "bytes": 5, "error": "UND_ERR_SOCKET"}


async def test_a_slow_reader_gets_everything(server, node, clean_log):
    """A reader that rests between chunks holds the producer back, and loses nothing."""

    async def numbers():
        for n in range(50_000):
            yield n

    async def app(scope, receive, send):
        await ndjson(numbers, controls=False, buffer=16)(scope, receive, send)

    last = await node(
        """
        const decoder = new TextDecoder();
        let text = "";
        for await (const chunk of (await fetch(url)).body) {
            text += decoder.decode(chunk, {stream: true});
            await new Promise(resolve => setTimeout(resolve, 1));
        }
        const lines = text.trimEnd().split("\\n");
        console.log(JSON.stringify([lines.length, lines.every((line, n) => +line === n)]));
        """,
        await server(app),
    )
    assert last == [50_000, True]
