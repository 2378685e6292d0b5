"""The house: how the package is cut into files and names, so that a stranger finds their way.

One file is one noun of a size that one can read; one word is one thing; nothing goes in a circle.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
from test_layers import INSIDE, MODULES, PACKAGE, imports, parse

MOST_LINES = 420
FEW_LINES = 40
MOST_AT_THE_TOP = 16

SHORT = {
    "abc._instrument": "an interface of its own, beside those of encoders, policies and logs",
    "demo._rate": "the feed, the flood and the tokens of the demo keep their pace by it",
    "runs._run_errors": "runs in memory and in a log raise them, and neither imports the other",
    "runs._runs_statistics": "runs in memory and in a log fill it in",
    "server.http2._reset_limit": "HTTP/2 and HTTP/3 count by it, and neither is part of the other",
    "server.http3._hypercorn_quic": "needs aioquic, which is an extra: `_hypercorn` loads without",
    "tasks._flag": "streams, writers and connections use it, in three rooms",
    "logs._append_results": "of three logs, each in a room of its own",
    "logs.postgres._lineage": "three connections and the writer share one",
}
"""Modules of less than 40 lines."""

FILES = [name for name in INSIDE if MODULES[name].name != "__init__.py"]


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return each set of modules that can all be reached from one another (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if other not in numbers:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], numbers[other])
        if lowest[name] == numbers[name]:
            circle = [stack.pop()]
            while circle[-1] != name:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for name in sorted(arrows):
        if name not in numbers:
            visit(name)
    return found


def test_no_import_goes_in_a_circle() -> None:
    """No module imports itself by way of others, not even for a type."""
    arrows = {name: {other for other, _ in imports(name, parse(name))} - {name} for name in MODULES}
    assert circles(arrows) == []


def test_a_circle_is_found() -> None:
    """The search finds a circle of three and leaves out what only leads to it."""
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(arrows) == [["a", "b", "c"]]


def test_no_two_modules_share_a_name() -> None:
    """A module is known by its last name alone."""
    places = defaultdict(list)
    for name in FILES:
        places[name.rpartition(".")[2].lstrip("_")].append(name)
    assert {last: names for last, names in places.items() if len(names) > 1} == {}


def test_no_two_classes_share_a_name() -> None:
    """A class is known by its name alone."""
    places = defaultdict(list)
    for name in MODULES:
        for node in parse(name).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{name}.{node.name}")
    assert {last: names for last, names in places.items() if len(names) > 1} == {}


def test_few_modules_lie_at_the_top() -> None:
    """What does not belong to everybody has a folder."""
    top = [name for name, path in MODULES.items() if path.parent == PACKAGE and path.suffix]
    assert len(top) <= MOST_AT_THE_TOP, sorted(top)


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_of_a_size_that_one_can_read(name: str) -> None:
    """A module has 40 to 420 lines, or a reason to have less."""
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= MOST_LINES, f"{name} has {lines} lines: is it two nouns?"
    if lines < FEW_LINES:
        assert name in SHORT, f"{name} has {lines} lines: who uses it, and can it live there?"
    else:
        assert name not in SHORT, f"{name} has {lines} lines, and needs no excuse"


# Folders of tests for what is no room of the package.
BESIDES = {
    "mutants": "what the tests themselves are worth",
    "real": "browsers and other people's clients",
    "real_servers": "the brokers and databases that tests start",
}


def test_the_tests_lie_where_the_package_does() -> None:
    """A folder of tests is one of the package's, or is named here; no two modules share a name."""
    tests = Path(__file__).parent
    paths = [path.relative_to(tests) for path in tests.rglob("test_*.py")]
    folders = {path.parent.as_posix() for path in paths} - {"."}
    for folder in folders - BESIDES.keys():
        assert (PACKAGE / folder).is_dir() or (PACKAGE / f"{folder}.py").is_file(), folder
    assert len({path.name for path in paths}) == len(paths)
