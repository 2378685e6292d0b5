"""Every bound is in the page of bounds, with the value that it has in the code."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import flowstream
import flowstream.decoders
import flowstream.sources
from flowstream.server import ServerConfig
from flowstream.server._config_file import _types

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reference" / "bounds-and-defaults.md").read_text()

# Settings that are numbers, and bound nothing.
NO_BOUNDS = {"group", "user", "umask", "verify_flags", "verify_mode", "wsgi_max_body_size"}
# Arguments that are numbers, and bound nothing.
NO_ARGUMENTS = {"PublicError.status", "UpstreamError.status", "Frames.prefix"} | {
    "FramesDecoder.prefix",
    "CloseReason.start",
}
# Constants that are numbers, and bound nothing: ids, statuses, what a format or a library says.
NO_CONSTANTS = {
    "encoders._json._SAFE",
    "encoders.ndjson._LF",
    "topics._envelope.VERSION",
    "topics._envelope._FIELDS",
    "runs._run_end._KIND",
    "logs._file_system._STATFS_BYTES",
    "logs.postgres._binary_values._LARGEST",
    "logs._sqlite_file._APPLICATION_ID",
    "logs._sqlite_faults._WRITE_BYTES",
    "logs._sqlite_file._VERSION",
    "logs.postgres._outbox_statement.MOST",
    "logs.postgres._schema.VERSION",
    "logs.valkey._valkey_values.MOST",
    "logs.valkey._valkey_values.MICROSECONDS",
    "logs.valkey._valkey_settings.SENTINEL_PORT",
    "logs.valkey._valkey_settings.SERVER_PORT",
    "server._frame_pieces._HEAD",
    "server._frame_pieces._PREFACE",
    "server._frame_pieces._SETTING",
    "server.http1._plain_request._SHORTEST",
    "_clock._LAST_SECOND",
    "_clock._SIMULATED_DAY",
    "ids._event_id._EPOCH_LENGTH",
    "ids._joined_id._TAG_LENGTH",
    "server.http1._http1._STREAM_ID",
    "server.process._assignment.CODE_CHANGED",
    "server.process._lifeline._EXIT_STATUS",
    "server.http1._plain_http1._STREAM_ID",
    "server._wire._LONGEST",
    "server.websocket._ws_handshake._KEY_BYTES",
    "sources.llm._loose._LARGEST",
}
UNITS = {"KiB": 1024, "MiB": 1 << 20, "ms": 0.001, "ns": 1, "s": 1, "bytes": 1, "": 1}


def rows(name: str) -> dict[str, str]:
    """Return the second cell of each row whose first is such a name, by that."""
    found = re.findall(rf"^\| `({name})` \| (.*?) \|", PAGE, re.MULTILINE)
    assert len(found) == len(dict(found)), "a name has two rows"
    return dict(found)


def value(cell: str) -> Any:
    """Return what stands in a cell as code."""
    text = cell.strip("`")
    if text == "inf":
        return math.inf
    return ast.literal_eval(text if text.startswith("(") else text.replace(",", ""))


def settings() -> dict[str, Any]:
    """Return the default of each setting that is a number, or some."""
    config = ServerConfig()
    return {
        name: getattr(config, name)
        for name, types in _types().items()
        if int in types or isinstance(getattr(config, name), tuple)
    }


def test_every_setting_of_the_server_is_given() -> None:
    """Each setting that is a number has its row, with its default, and no other has."""
    expected = {name: one for name, one in settings().items() if name not in NO_BOUNDS}
    given = {name: value(cell) for name, cell in rows(r"[a-z]\w+").items()}
    assert given == expected


def is_number(one: object) -> bool:
    return isinstance(one, (int, float)) and not isinstance(one, bool)


def arguments() -> dict[str, Any]:
    """Return the default of each argument that is a number, and of each field of a bound."""
    found: dict[str, Any] = {
        f"{kind.__name__}.{field.name}": field.default
        for kind in (flowstream.Buffer, flowstream.Limits)
        for field in fields(kind)
    }
    for module in (flowstream, flowstream.encoders, flowstream.sources, flowstream.decoders):
        for name in module.__all__:
            one = getattr(module, name)
            if not callable(one):
                continue
            try:
                parameters = inspect.signature(one).parameters.values()
            except ValueError:  # made in C
                continue
            found |= {
                f"{name}.{parameter.name}": parameter.default
                for parameter in parameters
                if is_number(parameter.default)
            }
    return {name: one for name, one in found.items() if name not in NO_ARGUMENTS}


def test_every_argument_that_bounds_is_given() -> None:
    """Each public argument whose default is a number has its row, with that."""
    given = {name: value(cell) for name, cell in rows(r"[A-Za-z_]+\.[a-z_]+").items()}
    assert given == arguments()


NUMBERS = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop)


def constants() -> Iterator[tuple[str, float]]:
    """Yield each constant of a module that is a number, by module and name."""
    package = ROOT / "flowstream"
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        if module.startswith(("demo.", "testing.")):
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, made = node.targets[0].id, node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, made = node.target.id, node.value or ast.Constant(None)
            else:
                continue
            if name.isupper() and all(isinstance(one, NUMBERS) for one in ast.walk(made)):
                number = eval(compile(ast.Expression(made), str(path), "eval"))
                if is_number(number):
                    yield f"{module}.{name}", number


CONSTANTS = dict(sorted(constants()))


def test_every_constant_that_bounds_is_given() -> None:
    """Each constant of a module that is a number has its row, with its value and its unit."""
    given = rows(r"[\w.]+\.[A-Z_]+")
    for name in set(CONSTANTS) - NO_CONSTANTS:
        assert name in given, f"{name} is in no row, and not in NO_CONSTANTS"
        cell = re.fullmatch(r"([\d,.]+) ?(\w*)", given[name])
        assert cell is not None, f"{name}: {given[name]!r} is no number with a unit"
        number = float(cell[1].replace(",", "")) * UNITS[cell[2]]
        assert number == pytest.approx(CONSTANTS[name]), name


def test_no_row_is_of_a_constant_that_is_gone() -> None:
    """A constant that is in the page is in the code."""
    assert set(rows(r"[\w.]+\.[A-Z_]+")) == set(CONSTANTS) - NO_CONSTANTS
    assert set(CONSTANTS) >= NO_CONSTANTS
    assert set(settings()) >= NO_BOUNDS
