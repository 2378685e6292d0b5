"""The pieces of Hypercorn that the server is built on: a changed one is a clear error."""

import ast
import importlib.util
from importlib.metadata import version
from pathlib import Path

import hypercorn.protocol.h2
import hypercorn.protocol.h11
import pytest

import flowstream
from flowstream.server import _hypercorn

PACKAGE = Path(flowstream.__file__).parent


def test_the_installed_version_is_as_expected():
    """`check` passes with the installed version, which is one of those that it names."""
    _hypercorn.check()
    assert version("hypercorn") in _hypercorn.TRIED


def change_parameters(monkeypatch):
    async def close(self, code):
        pass

    monkeypatch.setattr(_hypercorn.TCPServer, "_close", close)


def change_a_function(monkeypatch):
    monkeypatch.setattr(
        _hypercorn, "_FUNCTIONS", {_hypercorn.parse_socket_addr: "family address port"}
    )


def change_a_state(monkeypatch):
    class TCPServer:
        def __init__(self):
            self.app = None

    monkeypatch.setattr(_hypercorn, "_ATTRIBUTES", {TCPServer: "app send_lock"})


def change_h11(monkeypatch):
    class Connection:
        def __init__(self):
            self._buffer = b""

    Connection.__module__ = "h11._connection"
    monkeypatch.setattr(_hypercorn, "_ATTRIBUTES", {Connection: "_receive_buffer"})


CHANGES = {
    r"TCPServer\._close takes \(self, code\), where \(self\) is expected": change_parameters,
    r"H2Protocol has no _flush": lambda patch: patch.delattr(_hypercorn.H2Protocol, "_flush"),
    r"WorkerContext has no event_class": lambda patch: patch.delattr(
        _hypercorn.WorkerContext, "event_class"
    ),
    r"TCPServer has no send_lock": change_a_state,
    r"^h11 [\d.]+: Connection has no _receive_buffer": change_h11,
    r"parse_socket_addr takes \(family, address\)": change_a_function,
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_changed_piece(monkeypatch, message):
    """A piece that is missing or changed is named, with the versions that were tried."""
    CHANGES[message](monkeypatch)
    with pytest.raises(RuntimeError, match=message + r".*tried with Hypercorn 0\.18\.0"):
        _hypercorn.check()


async def test_it_is_looked_at_before_a_server_starts(monkeypatch):
    """`serve` fails with it before it calls the app or listens."""
    monkeypatch.delattr(_hypercorn.H2Protocol, "_flush")
    called = []

    async def app(scope, receive, send):
        called.append(scope)

    with pytest.raises(RuntimeError, match="H2Protocol has no _flush"):
        await flowstream.serve(app)
    assert not called


def load_again():
    """Import the module once more, beside the one that is in use."""
    spec = importlib.util.spec_from_file_location("again", _hypercorn.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_name_that_cannot_be_imported(monkeypatch):
    """A piece that Hypercorn no longer has is named in the same words, already at import."""
    load_again().check()
    monkeypatch.delattr(hypercorn.protocol.h2, "StreamBuffer")
    monkeypatch.delattr(hypercorn.protocol.h11, "H11WSConnection")
    with pytest.raises(RuntimeError, match=r"StreamBuffer.*tried with Hypercorn 0\.18\.0"):
        load_again()


def imports(path):
    """Yield the module and the names of each ``from module import names``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def test_nothing_is_named_that_is_not_used():
    """Every name of the module is imported by another one, but for the list of versions."""
    used = {
        name
        for path in PACKAGE.rglob("*.py")
        for module, names in imports(path)
        if module == "flowstream.server._hypercorn"
        for name in names
    }
    assert set(_hypercorn.__all__) - {"TRIED"} == used


def test_nobody_else_imports_hypercorn():
    """No other module goes past this one, and the one for HTTP/3, to Hypercorn."""
    others = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("_hypercorn.py", "_hypercorn_quic.py")
        for module, _ in imports(path)
        if module.partition(".")[0] == "hypercorn"
    ]
    assert not others
