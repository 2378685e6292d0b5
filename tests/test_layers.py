"""The rooms of the package: a module imports only from its own room or one below it.

A new module at the top is listed in `ROOMS`; a folder stands for all that is in it. The sans-I/O
rooms, and single modules elsewhere that are values in and values out (`PURE`), import no Trio and
never wait.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "flowstream"

# From the ground up. What is in no room of its own stands in the next larger one.
ROOMS: dict[str, list[str]] = {
    "vocabulary": [
        "_lazy",
        "abc",
        "_errors",
        "_event",
        "_closing",
        "_live_stream",
        "limits",
        "llm",
    ],
    "time and chance": ["_clock"],
    "ids": ["ids"],
    "policies": ["policies"],
    "encoders": ["encoders"],
    "decoders": ["decoders"],
    "framing": ["framing"],
    "event types": ["event_types"],
    "tasks": ["tasks"],
    "registry": ["_registry"],
    "logs": ["logs"],
    "buffer": ["buffer"],
    "sources": ["sources"],
    "topics": ["topics"],
    "runs": ["runs"],
    "asgi": ["asgi"],
    "quart": ["quart"],
    "starlette": ["starlette"],
    "server": ["server"],
    "testing": ["testing"],
    "demo": ["demo"],
    "command line": ["commands", "cli"],
}
# The rooms inside `server`, from the ground up. "*" is every module that is in no other one.
SERVER_ROOMS: dict[str, list[str]] = {
    "settings and log": ["_hypercorn", "_forwarded", "_settings", "_config_file", "log"],
    "pieces": ["*"],
    "WebSockets": ["websocket"],
    "protocols": ["http1", "http2", "http3"],
    "connections": ["_protocols", "_connections", "_connection", "_http_connection"],
    "serving": ["_serving"],
    "processes": ["process"],
}
SANS_IO = ("vocabulary", "ids", "policies", "encoders", "decoders", "framing", "event types")
PURE = [
    "asgi._compression",
    "asgi._deadlines",
    "asgi._disposition",
    "asgi._ending",
    "asgi._request",
    "buffer._keyed_queue",
    "buffer._ordered_queue",
    "buffer._queue",
    "logs._append_arguments",
    "logs._epochs",
    "logs._file_system",
    "logs._idempotency_keys",
    "logs._lease_rules",
    "logs._log_clock",
    "logs._memory_leases",
    "logs._memory_topic",
    "logs.postgres._binary_values",
    "logs.postgres._lineage",
    "logs.postgres._postgres_pages",
    "logs.postgres._sqlstates",
    "logs.postgres._statements",
    "logs.valkey._conversation",
    "logs.valkey._server_error",
    "logs.valkey._server_facts",
    "logs.valkey._valkey_scripts",
    "logs.valkey._valkey_settings",
    "logs.valkey._valkey_values",
    "server._request_rules",
    "server.http1._plain_request",
    "server.http1._strict_lines",
    "server.http2._peer_settings",
    "sources.files._file_position",
    "sources.files._lines",
    "sources.files._ranges",
    "topics._encodings",
    "topics._envelope",
    "topics._history",
    "topics._published",
    "topics._segments",
    "topics._window",
]

# What HTTP alone has. A stream goes to its client through a `Transport`, and knows none of these.
HTTP_ALONE = [
    "asgi._between",
    "asgi._compression",
    "asgi._cut",
    "asgi._early_answer",
    "asgi._exchange",
    "asgi._head",
    "asgi._http_transport",
    "asgi._response_plan",
    "asgi.response",
]

# The public face imports what it names. What it must not import is what an app may do
# without: the integrations, the test kit and the programs.
NOT_IN_THE_FACE = ["quart", "starlette", "testing", "demo", "cli"]
# Programs are users of the public face, so they may import it; nothing below it may.
PROGRAMS = ["demo", "cli"]


def modules() -> dict[str, Path]:
    """Return every module of the package by its name without ``flowstream.``; "" is the root."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
INSIDE = sorted(name for name in MODULES if name)


def listed(name: str) -> str | None:
    """Return the entry of `ROOMS` that `name` falls under."""
    for entries in ROOMS.values():
        for entry in entries:
            if name == entry or name.startswith(f"{entry}."):
                return entry
    return None


def floor(name: str) -> int:
    """Return the number of the room of `name`, from 0."""
    entry = listed(name)
    return next(n for n, entries in enumerate(ROOMS.values()) if entry in entries)


def imports(name: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each module of the package that is imported anywhere in `tree`, and the line."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "flowstream":
                    yield alias.name.removeprefix("flowstream").removeprefix("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                up = package.split(".") if package else []
                base = ".".join(up[: len(up) - node.level + 1])
                module = ".".join(filter(None, (base, node.module)))
            elif node.module and node.module.split(".")[0] == "flowstream":
                module = node.module.removeprefix("flowstream").removeprefix(".")
            else:
                continue
            for alias in node.names:
                full = ".".join(filter(None, (module, alias.name)))
                yield (full if full in MODULES else module), node.lineno


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(), MODULES[name])


def allowed(name: str, imported: str) -> bool:
    if not name:
        return not imported or listed(imported) not in NOT_IN_THE_FACE
    if not imported:
        return listed(name) in PROGRAMS
    return floor(imported) <= floor(name)


@pytest.mark.parametrize("name", INSIDE)
def test_every_module_is_in_a_room(name: str) -> None:
    """Every module has its room."""
    assert listed(name), f"flowstream.{name} is in no room: list it in ROOMS of {__file__}"


@pytest.mark.parametrize("entry", [e for entries in ROOMS.values() for e in entries] + PURE)
def test_every_listed_module_exists(entry: str) -> None:
    """The list of rooms names no module that is gone."""
    assert entry in MODULES


@pytest.mark.parametrize("name", ["", *INSIDE])
def test_a_module_imports_only_from_its_own_room_or_one_below(name: str) -> None:
    """No import in the package, not even one inside a function, goes up."""
    wrong = [
        f"line {line}: flowstream.{imported}"
        for imported, line in imports(name, parse(name))
        if not allowed(name, imported)
    ]
    assert not wrong, f"flowstream.{name} must not import {wrong}"


def server_floor(name: str) -> int:
    """Return the number of the room inside `server` that a module of it is in, from 0."""
    entry = name.split(".")[1]
    floors = {one: n for n, entries in enumerate(SERVER_ROOMS.values()) for one in entries}
    return floors.get(entry, floors["*"])


IN_SERVER = [name for name in INSIDE if name.startswith("server.")]


@pytest.mark.parametrize("name", IN_SERVER)
def test_inside_the_server_no_import_goes_up(name: str) -> None:
    """Processes are above serving, that is above connections, and so on down to the log."""
    wrong = [
        f"line {line}: flowstream.{imported}"
        for imported, line in imports(name, parse(name))
        if imported == "server"
        or (imported in IN_SERVER and server_floor(imported) > server_floor(name))
    ]
    assert not wrong, f"flowstream.{name} must not import {wrong}"


def test_every_room_inside_the_server_exists() -> None:
    """The list of the server's rooms names no module that is gone."""
    listed_ones = {one for entries in SERVER_ROOMS.values() for one in entries} - {"*"}
    assert {f"server.{one}" for one in listed_ones} <= MODULES.keys()


def test_a_stream_knows_nothing_of_http_alone() -> None:
    """Nothing between a stream and its transport imports, even by way of others, what is HTTP's."""
    assert set(HTTP_ALONE) <= MODULES.keys()
    seen: set[str] = set()
    new = {"asgi._stream"}
    while new:
        name = new.pop()
        seen.add(name)
        new |= {imported for imported, _ in imports(name, parse(name)) if imported in INSIDE} - seen
    assert {"asgi._writer", "asgi._supply", "asgi._permit"} <= seen
    assert seen.isdisjoint(HTTP_ALONE)


def is_pure(name: str) -> bool:
    return name in PURE or any(listed(name) in ROOMS[room] for room in SANS_IO)


@pytest.mark.parametrize("name", [name for name in INSIDE if is_pure(name)])
def test_a_module_without_io_neither_imports_trio_nor_waits(name: str) -> None:
    """What is called sans-I/O has no `async`, no `await` and no Trio in it."""
    tree = parse(name)
    for node in ast.walk(tree):
        where = f"flowstream/{MODULES[name].name}, line {getattr(node, 'lineno', '?')}"
        waits = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
        assert not isinstance(node, waits), where
        if isinstance(node, ast.comprehension):
            assert not node.is_async, f"flowstream.{name}"
        roots = []
        if isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots = [node.module.split(".")[0]]
        assert not {"trio", "anyio", "asyncio", "outcome"} & set(roots), where


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("policies", "from flowstream.buffer._event_buffer import EventBuffer"),
        ("abc", "import flowstream.policies"),
        ("sources.threads._threaded_iteration", "from ...asgi import plan"),
        ("sources.threads._threaded_iteration", "from ... import asgi"),
        ("server._serving", "from flowstream import sse"),
        ("", "def f():\n    from flowstream.quart import Flowstream"),
    ],
)
def test_an_import_that_goes_up_is_seen(name: str, line: str) -> None:
    """The check finds an upward import however it is written."""
    found = list(imports(name, ast.parse(line)))
    assert len(found) == 1
    assert not allowed(name, found[0][0])


def test_importing_flowstream_loads_no_framework() -> None:
    """`import flowstream` costs nobody a web framework, the demo or the test kit."""
    program = (
        "import sys, flowstream\n"
        "unwanted = {'quart', 'quart_trio', 'starlette', 'fastapi', 'rich', 'click', 'pytest'}\n"
        "print(sorted(unwanted & {name.split('.')[0] for name in sys.modules}))\n"
        "unwanted = ('flowstream.demo', 'flowstream.testing')\n"
        "print(sorted(name for name in sys.modules if name.startswith(unwanted)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n[]\n"
