"""What the documentation shows runs, and what it points at is there.

Each fenced block of README.md, docs/ and the other pages is taken by its language and by
the HTML comment in front of it:

* ``python``: run. ``<!-- continues -->`` runs it in the namespace of the block before,
  ``<!-- program -->`` in a Python of its own, ``<!-- tests -->`` under pytest, and
  ``<!-- fragment -->`` only compiles it. ``<!-- file: name.py -->`` runs it and saves it, for
  the programs and tests that follow on the page.
* ``<!-- output -->``: what the program before prints. ``<!-- output: GET /path -->`` (with
  ``Name: value`` behind the path for a header): what the ``app`` of the block before answers.
  A first line ``HTTP/1.1 200`` and lines of headers may lead; a line ``...`` stands for the
  rest. Random parts of ids are not compared.
* ``js``: `node --check`, where there is Node.js.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import flowstream
import flowstream.abc
import flowstream.quart
import flowstream.starlette
import flowstream.testing
from flowstream.encoders._controls import CONTROL_NAMES
from flowstream.testing import EndOfBody, open_stream

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda page: page.as_posix()
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

_FENCE = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|<(https?://[^>]+)>")
_THREADED = re.compile(r"open_log|sqlite_rows|file_chunks|follow|AsyncOpenAI|to_thread")
_RANDOM = re.compile(r"\b[0-9a-f]{8}(?=\.(?:\d+|end|failed)\b)")


@dataclass
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    marker: str
    text: str
    outputs: list[Block] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(
            name,
            text.count("\n", 0, match.start("text")),
            match["language"],
            match["marker"] or "",
            match["text"],
        )
        for match in _FENCE.finditer(text)
    ]


def stories(page: Path) -> list[list[Block]]:
    """Return the Python blocks of a page, each with its outputs; what continues is together."""
    found: list[list[Block]] = []
    for block in blocks(page):
        if block.marker.startswith("output"):
            assert found, f"{block}: an output of nothing"
            found[-1][-1].outputs.append(block)
        elif block.language == "python":
            goes_on = block.marker == "continues" or (
                found and found[-1][0].marker.startswith("file: ")
            )
            if goes_on:
                found[-1].append(block)
            else:
                found.append([block])
    return found


STORIES = [story for page in PAGES for story in stories(page)]
SCRIPTS = [block for page in PAGES for block in blocks(page) if block.language == "js"]


def readable(text: str) -> str:
    return _RANDOM.sub("########", text.replace("\r\n", "\n"))


def assert_same(shown: str, real: str, where: Block) -> None:
    head, rest, _ = shown.rstrip("\n").partition("\n...")
    expected, actual = readable(head), readable(real).rstrip("\n")
    if rest:
        actual = "\n".join(actual.split("\n")[: expected.count("\n") + 1])
    assert actual == expected, f"{where} shows something else"


async def answer(app: Any, request: str, lines: float) -> tuple[int, Any, str]:
    """Return status, headers and body of the answer, which may end after so many lines."""
    method, _, rest = request.partition(" ")
    path, _, header = rest.partition(" ")
    name, _, value = header.partition(": ")
    headers = {name: value} if name else {}
    async with open_stream(app, path, method=method, headers=headers) as client:
        await client.started()
        received = b""
        with trio.fail_after(60), contextlib.suppress(EndOfBody):
            while received.count(b"\n") < lines:
                received += await client.read(1)
        assert client.status is not None
        return client.status, client.headers, received.decode()


def check_answer(app: Any, output: Block, *, uses_threads: bool) -> None:
    request = output.marker.removeprefix("output: ")
    # Time jumps, but not while a thread may be at work: it gets this much real time.
    clock = MockClock(autojump_threshold=0.2 if uses_threads else 0)
    shown = output.text
    lines = shown.count("\n") if shown.endswith("\n...\n") else math.inf
    status, headers, body = trio.run(answer, app, request, lines, clock=clock)
    if shown.startswith("HTTP/"):
        head, _, shown = shown.partition("\n\n")
        lines = head.rstrip("\n").split("\n")
        assert lines[0].split()[1] == str(status), output
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert headers.get(name) == value, f"{output}: {line}"
    else:
        assert status == 200, output
    assert_same(shown, body, output)


def run_apart(block: Block, directory: Path) -> str:
    arguments = ["-m", "pytest", "-q", "-o", "trio_mode=true"] if block.marker == "tests" else []
    path = directory / "test_snippet.py"
    path.write_text(block.text)
    done = subprocess.run(
        [sys.executable, *arguments, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=directory,
        env={key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"},
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compile_fragment(block: Block) -> None:
    """Compile what may stand inside an async function."""
    body = "".join(f"    {line}" for line in block.text.splitlines(keepends=True))
    compile(f"async def fragment():\n{body}", str(block), "exec")


@pytest.mark.parametrize("story", STORIES, ids=lambda story: str(story[0]))
def test_a_snippet_runs_and_gives_what_is_shown(
    story: list[Block], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every Python block of the documentation runs, and its output is the one shown."""
    namespace: dict[str, Any] = {"__name__": "snippet"}
    uses_threads = any(_THREADED.search(block.text) for block in story)
    for block in story:
        if block.marker == "fragment":
            compile_fragment(block)
            continue
        if block.marker in ("program", "tests"):
            printed = run_apart(block, tmp_path)
        else:
            kind, _, name = block.marker.partition(": ")
            assert kind in ("", "continues", "file"), f"{block}: unknown {block.marker!r}"
            if name:
                (tmp_path / name).write_text(block.text)
            capsys.readouterr()
            exec(compile(block.text, str(block), "exec"), namespace)
            printed = capsys.readouterr().out
        for output in block.outputs:
            if output.marker == "output":
                assert_same(output.text, printed, output)
            else:
                check_answer(namespace["app"], output, uses_threads=uses_threads)


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_script_is_javascript(block: Block, tmp_path: Path) -> None:
    """Every JavaScript block of the documentation parses."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    path = tmp_path / "snippet.mjs"
    path.write_text(block.text)
    done = subprocess.run([node, "--check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}:\n{done.stderr}"


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).strip().replace(" ", "-")


def headings(page: Path) -> list[str]:
    text = _FENCE.sub("", page.read_text())
    return [slug(match[1]) for match in re.finditer(r"^#+ (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("name", NAMES)
def test_internal_links_lead_somewhere(name: str) -> None:
    """Every link to a file or a heading of the project finds it."""
    page = ROOT / name
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        target = match[1] or match[2] or match[3]
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor in headings(path), f"{name} links to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_tests_that_are_named_exist(name: str) -> None:
    """Where a page says which test proves something, that test is there."""
    for path, function in re.findall(
        r"\b(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / name).read_text()
    ):
        assert (ROOT / path).exists(), f"{name} names {path}"
        if function:
            assert f"def {function}(" in (ROOT / path).read_text(), f"{name} names {function}"


def test_every_page_is_reached_from_the_index() -> None:
    """No page of docs/ is left out of the index."""
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "index.md" or f"({name})" in index, name


REFERENCE = ROOT / "docs" / "reference"


def in_code(page: str) -> set[str]:
    """Return the first names of what a reference page puts into backquotes."""
    return set(re.findall(r"`([A-Za-z_]\w*)", (REFERENCE / page).read_text()))


@pytest.mark.parametrize(
    "module",
    [
        flowstream,
        flowstream.abc,
        flowstream.quart,
        flowstream.starlette,
        flowstream.testing,
        flowstream.decoders,
        flowstream.sources,
    ],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_in_the_reference(module: Any) -> None:
    """Every name of a public module has its line in the reference."""
    assert set(module.__all__) <= in_code("names.md")


def test_every_argument_of_a_stream_is_in_the_reference() -> None:
    """Every keyword of `stream()` has its line in the reference, with its default."""
    from flowstream import StreamOptions
    from flowstream.asgi._response_plan import make_response_plan
    from flowstream.asgi.plan import make_plan

    page = (REFERENCE / "names.md").read_text()
    parameters = {**inspect.signature(make_plan).parameters}
    parameters |= inspect.signature(make_response_plan).parameters
    options = [one for one in parameters.values() if one.kind is one.KEYWORD_ONLY]
    assert len(options) == len(StreamOptions.__annotations__)
    for parameter in options:
        row = re.search(rf"^\| `{parameter.name}` \| (.*?) \|", page, re.MULTILINE)
        assert row, parameter.name
        assert row[1] == f"`{parameter.default!r}`".replace("'", '"'), parameter.name


def test_every_close_reason_is_in_the_reference() -> None:
    """The page of close reasons has each of them, and no other."""
    table = (REFERENCE / "close-reasons.md").read_text().partition("## The report")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(flowstream.CloseReason)


def test_every_field_of_a_report_is_in_the_reference() -> None:
    """The page of close reasons explains each field of the report."""
    expected = {field.name for field in fields(flowstream.StreamReport)}
    assert expected <= in_code("close-reasons.md")


def test_every_control_event_is_in_the_reference() -> None:
    """The page of control events has each of them."""
    assert in_code("control-events.md") >= CONTROL_NAMES


def test_every_policy_is_in_the_reference() -> None:
    """The page of policies has a heading for each of them."""
    from flowstream import policies

    text = (REFERENCE / "policies.md").read_text()
    for name in policies.__all__:
        assert re.search(rf"^## `{name}\(", text, re.MULTILINE), name


def test_the_two_commands_of_the_readme_stand_alone() -> None:
    """Each command that a newcomer pastes is one line of its own."""
    lines = (ROOT / "README.md").read_text().splitlines()
    setup = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert f"{setup} '.[demo]' && .venv/bin/flowstream demo" in lines
    assert f"{setup} '.[dev]' && .venv/bin/pytest -n auto" in lines


def test_the_readme_begins_with_an_example_that_is_short() -> None:
    """The README's first program has at most fifteen lines of code."""
    first = blocks(ROOT / "README.md")[0]
    assert first.language == "python"
    assert len([line for line in first.text.splitlines() if line.strip()]) <= 15


def test_markers_stand_right_in_front_of_their_block() -> None:
    """No marker is lost because of an empty line behind it."""
    for page in PAGES:
        for line, after in pairwise(page.read_text().splitlines()):
            if line.startswith("<!--"):
                assert after.startswith("```"), f"{page}: {line}"


def test_no_command_installs_another_projects_package() -> None:
    """Whatever says `pip install` or names an extra names the distribution, `flowstream-trio`."""
    names = ("*.py", "*.md", "*.toml", "*.html", "*.js", "*.yml", "*.txt")
    places = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    places.append(ROOT / "pyproject.toml")
    for folder in ("flowstream", "docs", "examples", "benchmarks", "tests"):
        places.extend(found for name in names for found in (ROOT / folder).rglob(name))
    stranger = re.compile(
        r"\bflowstream\\?\[[a-z{]|\b(?:pip|uv) (?:install|add)[^\n&;#]*\bflowstream(?![-\w./])"
    )
    for place in places:
        if place != Path(__file__):
            assert not stranger.findall(place.read_text()), place


def test_every_extra_that_is_told_of_is_there() -> None:
    """An extra in the docs, or in an error's message, is one of the distribution's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "flowstream-trio"
    told = re.compile(r"flowstream-trio\\?\[([\w,-]+)")
    pages = [*PAGES, *(ROOT / "flowstream").rglob("*.py")]
    extras = {
        extra
        for page in pages
        for found in told.findall(page.read_text())
        for extra in found.split(",")
    }
    assert extras
    assert extras <= set(project["optional-dependencies"])
