"""The page on the architecture says what is so: its drawing, its rooms, the files it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from draw_rooms import PICTURE, arrows_between_rooms, draw, reachable, without_shortcuts
from test_layers import PACKAGE, ROOMS

TEXT = (Path(__file__).parent.parent / "docs" / "explanation" / "architecture.md").read_text()
_NAMED = re.compile(r"`(?:flowstream/)?([\w/]+\.py)(?:::([\w.]+))?`")
QUESTIONS = dict(
    section.partition("\n")[::2]
    for section in TEXT.partition("## A stranger's questions\n")[2].split("\n### ")[1:]
)


def definitions(tree: ast.Module | ast.ClassDef, of: str = "") -> set[str]:
    """Return the names of the classes, functions and methods that are defined in `tree`."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(of + node.name)
        if isinstance(node, ast.ClassDef):
            found |= definitions(node, f"{node.name}.")
    return found


def named_in(text: str) -> list[tuple[str, str]]:
    """Return the files, and what is to be found in them, that a text sends its reader to."""
    return [(file, name) for file, name in _NAMED.findall(text) if name or "/" in file]


def test_the_drawing_is_made_from_the_imports() -> None:
    """The picture shows the imports as they are: else run ``python tests/draw_rooms.py``."""
    assert PICTURE.read_text() == draw(arrows_between_rooms())


def test_shortcuts_alone_are_left_out_of_the_drawing() -> None:
    """What is left out is reached by another way, and what has no other way is there."""
    arrows = {"d": {"a", "b", "c"}, "c": {"a", "b"}, "b": {"a"}, "a": set()}
    assert without_shortcuts(arrows) == {"d": {"c"}, "c": {"b"}, "b": {"a"}, "a": set()}
    real = arrows_between_rooms()
    drawn = without_shortcuts(real)
    for room, below in real.items():
        assert drawn[room] <= below
        assert reachable(drawn, room) == reachable(real, room)


def test_every_room_is_explained() -> None:
    """The table has each room, from top to bottom."""
    table = TEXT.partition("## The rooms\n")[2].partition("![")[0]
    assert re.findall(r"^\| `([\w ]+)` \|", table, re.MULTILINE) == list(reversed(ROOMS))


@pytest.mark.parametrize(("file", "name"), sorted(set(named_in(TEXT))))
def test_what_the_page_names_is_there(file: str, name: str) -> None:
    """Each file that the page names exists, and has the definition in it."""
    if file.startswith("tests/"):
        assert (PACKAGE.parent / file).exists()
        return
    path = PACKAGE / file
    assert path.exists(), f"architecture.md names {file}, which has been moved or renamed"
    if name:
        assert name in definitions(ast.parse(path.read_text())), f"{file} has no {name}"


def test_the_questions_are_those_of_a_stranger() -> None:
    """Each question that somebody new will have is there."""
    assert list(QUESTIONS) == [
        "Where does a policy decide?",
        "Where is a gap written?",
        "Who notices that a client left?",
        "What happens at SIGTERM?",
        "Where do heartbeats come from?",
        "Why did this stream end `stalled`?",
        "Where would a Kafka log go?",
        "Where would a new wire format go?",
    ]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_by_three_files_at_the_most(question: str) -> None:
    """Nobody has to open more than three files for an answer."""
    files = {file for file, _ in _NAMED.findall(QUESTIONS[question])}
    assert 1 <= len(files) <= 3, files
