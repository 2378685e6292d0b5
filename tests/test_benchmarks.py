"""What the benchmarks serve: a stream in each of the four homes, and not in the cheapest alone.

Nothing is timed here. What is measured is only worth something while each home takes the path
that it is said to take.
"""

import ast
import importlib.util
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
import trio
import trio.testing

import flowstream.logs

HERE = Path(__file__).parent.parent / "benchmarks"
PROGRAMS = {path.name: path for path in sorted(HERE.glob("*.py"))}

# Why a benchmark has no homes.
WITHOUT = {
    "attacks.py": "attacks servers; the homes are behind them",
    "buffer.py": "serves nothing",
    "log.py": "serves nothing: it measures a log",
    "server_cost.py": "compares two servers, by an app that streams nothing of flowstream's",
}


def load(name):
    """Return a module of the benchmarks; its name is another than that of the tests' `_homes`."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


homes, counted = load("_homes"), load("_counted")


def takes_all_homes(name):
    """Whether a benchmark, or a program that it runs, takes its apps from `_homes.HOMES`."""
    nodes = list(ast.walk(ast.parse(PROGRAMS[name].read_text())))
    if any(
        isinstance(node, ast.Subscript) and getattr(node.value, "id", None) == "HOMES"
        for node in nodes
    ):
        return True
    named = {node.value for node in nodes if isinstance(node, ast.Constant)}
    return any(takes_all_homes(other) for other in PROGRAMS if other != name and other in named)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if not name.startswith("_")])
def test_every_benchmark_that_serves_does_in_four_homes(name):
    """A benchmark takes what it serves from `_homes.HOMES`, or is named here with a reason."""
    assert takes_all_homes(name) != (name in WITHOUT)


def test_there_are_four_homes():
    """Bare ASGI, Quart-Trio, Starlette and FastAPI, each with a label for the tables."""
    assert list(homes.HOMES) == ["bare", "quart", "starlette", "fastapi"] == [*homes.HOME_LABELS]


@pytest.mark.parametrize("home", homes.HOMES)
async def test_a_home_of_the_benchmarks_is_written_to_directly(home, server, client, aeventually):
    """Every delivery to clients that wait is a direct write, and the printed count says so."""
    topic = counted.CountedTopic()

    async def stream(given):
        return topic.stream()

    app, _ = homes.HOMES[home]({"/events": stream, "/statistics": topic.statistics})
    url = await server(app)
    peers = [client(url) for _ in range(3)]
    for peer in peers:
        peer.get("/events")
    await aeventually(lambda: topic.topic.subscribers == 3, "all have subscribed")
    await trio.testing.wait_all_tasks_blocked(0.05)
    for number in range(10):
        await topic.topic.publish(f"<{number}>")
    port = int(url.rpartition(":")[2].strip("/"))
    taken = await trio.to_thread.run_sync(counted.taken, port)
    assert taken == counted.Taken(deliveries=30, direct=30, why_not=None)
    assert str(taken).strip() == "100.0% of 30 deliveries were direct writes"
    await topic.topic.aclose()
    for peer in peers:
        assert (await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")).count(b"<") == 10


async def test_the_count_says_why_there_are_no_direct_writes(server, client, aeventually):
    """A stream that may not be written to directly is counted as such, with the reason."""
    topic = counted.CountedTopic()

    async def stream(given):
        return topic.stream(direct=False)

    app, _ = homes.HOMES["bare"]({"/events": stream, "/statistics": topic.statistics})
    url = await server(app)
    peer = client(url)
    peer.get("/events")
    await aeventually(lambda: topic.topic.subscribers == 1, "it has subscribed")
    await topic.topic.publish("<>")
    taken = await trio.to_thread.run_sync(counted.taken, int(url.rpartition(":")[2].strip("/")))
    assert (taken.deliveries, taken.direct) == (1, 0)
    assert str(taken).endswith("none now: direct=False was given")
    await topic.topic.aclose()
    await trio.to_thread.run_sync(peer.read_until, b"0\r\n\r\n")


SERVERS = {
    "_servers.py": (["flowstream-{home}"], "/stream?events=3", b"~"),
    "_connection_servers.py": (["flowstream-{home}"], "/first", b"~"),
    "_fanout_servers.py": (["flowstream-{home}"], "/statistics", b"deliveries"),
    "stalled_clients.py": (["--serve", "{home}"], "/paced", b"data:"),
    "files.py": (["--serve", "file_chunks-{home}", "--path", __file__], "/", b"in each of the"),
    "_rows_sides.py": (["{home}", "none.sqlite", "dbname=none"], "/figures?watch=1", b"worst"),
    "_log_delivery_servers.py": (["{home}", "sqlite:///{tmp}/{home}.db"], "/statistics", b"direct"),
}


@pytest.mark.chaos  # twenty-eight processes
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", SERVERS)
def test_a_program_serves_in_each_home(name, tmp_path):
    """Each program that a benchmark runs starts in all homes and answers a request."""
    arguments, path, expected = SERVERS[name]
    with ExitStack() as stack:
        processes = {}
        for home in homes.HOMES:
            filled = [argument.format(home=home, tmp=tmp_path) for argument in arguments]
            command = [sys.executable, str(HERE / name), *filled]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            processes[home] = process
        for process in processes.values():
            port = json.loads(process.stdout.readline())["port"]
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                got = b""
                while expected not in got:
                    line = answer.readline()
                    assert line, got
                    got += line


# A store is measured as soon as there is a log for it.
STORES = {"sqlite": "SQLiteLog", "valkey": "ValkeyLog", "postgres": "PostgresLog"}


@pytest.mark.chaos  # servers, and several processes
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "store", [store for store, log in STORES.items() if log in flowstream.logs.__all__]
)
def test_each_log_is_measured_beside_its_floor(store, tmp_path):
    """A little of everything is measured, and each ratio and each bar has its figures."""
    stores = load("_log_stores").STORES[store]
    setting = stores.settings[0]
    result = tmp_path / "result.json"
    command = [sys.executable, str(HERE / "log.py"), "--log", store, "--quick"]
    subprocess.run([*command, "--settings", setting, "--json", result], check=True)
    (found,) = json.loads(result.read_text())[setting]
    expected = {*stores.ratios, *stores.bars}
    if not stores.breakable:
        expected -= {"killed to first event live, s", "stall to error, s over patience"}
    assert expected <= found.keys()
    # Memory grows in pages, an error may come to the millisecond, and all hints may follow on.
    rough = (
        "memory of a followed topic, bytes",
        "stall to error, s over patience",
        "reads beside hints",
    )
    assert all(value > (-1 if name in rough else 0) for name, value in found.items()), found


@pytest.mark.chaos  # servers, and a C compiler
@pytest.mark.timeout(180)
def test_deliveries_through_a_log_are_measured(tmp_path):
    """Every client gets every event of each worker, written directly."""
    result = tmp_path / "result.json"
    command = [sys.executable, str(HERE / "log_delivery.py"), "--rounds", "1", "--homes", "bare"]
    few = ["--clients", "10", "--seconds", "0.1", "--json", str(result)]
    done = subprocess.run([*command, *few], check=True, stdout=subprocess.PIPE, text=True)
    samples = json.loads(result.read_text())["samples"]
    assert [(one["topic"], one["workers"]) for one in samples[::2]] == [
        ("memory", 1),
        ("sqlite", 1),
        ("sqlite", 2),
    ]
    assert all(one["cpu"] > 0 and one["deliveries"] in (100, 200) for one in samples)
    assert done.stdout.count("100.0% of") == 3
