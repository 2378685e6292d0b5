"""What `import flowstream` loads, and the names that it loads when they are asked for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import flowstream
from flowstream._lazy import lazy_names

LIMITS = {"import flowstream": 16, "from flowstream import sse": 125}

LAZY = [
    ("flowstream", "serve"),
    ("flowstream", "sse"),
    ("flowstream", "Topic"),
    ("flowstream.encoders", "AGUI"),
    ("flowstream.sources", "follow"),
    ("flowstream.sources", "openai_tokens"),
    ("flowstream.sources", "postgres_rows"),
]


# Runs each line of its input as a program of its own, in a copy of a Python that has loaded nothing
# of flowstream: to copy one takes a millisecond, to start one takes a third of a second.
COPIES = """
import os, sys, traceback
import trio, typing
assert not any(name.split(".")[0] == "flowstream" for name in sys.modules)
for program in map(eval, sys.stdin.read().splitlines()):
    if not os.fork():
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            print(traceback.format_exc().encode())
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def outputs(programs: list[str]) -> list[list[str]]:
    """Return what each of the programs prints, in one line, in a Python of its own."""
    lines = output(COPIES, "\n".join(map(repr, programs)), split=str.splitlines)
    assert len(lines) == len(programs)
    return [line.split() for line in lines]


def output(
    program: str, given: str = "", split: Callable[[str], list[str]] = str.split
) -> list[str]:
    # What measures coverage would start in it, too, and import things of its own.
    environment = {name: value for name, value in os.environ.items() if "COV" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return split(done.stdout)


def test_importing_flowstream_loads_no_server_and_no_producer() -> None:
    """Nothing of Hypercorn, nor of a producer that the program doesn't use, is imported."""
    loaded = output("import sys, flowstream; print(*sys.modules)")
    roots = {name.split(".")[0] for name in loaded}
    assert not roots & {"hypercorn", "h11", "h2", "hpack", "wsproto", "priority", "multiprocessing"}
    assert "flowstream.server" not in loaded
    for producers in ("llm", "rows", "files", "programs"):
        assert importlib.util.find_spec(f"flowstream.sources.{producers}")
        assert f"flowstream.sources.{producers}" not in loaded


@pytest.mark.parametrize("program", LIMITS)
def test_importing_flowstream_loads_few_modules_beyond_trios(program: str) -> None:
    """A few modules, flowstream's own included, come on top of those of Trio."""
    trios = output("import sys, trio; print(*sys.modules)")
    beyond = set(output(f"{program}; import sys; print(*sys.modules)")) - set(trios)
    assert len(beyond) <= LIMITS[program], sorted(beyond)


def test_a_public_name_says_so_when_it_is_the_only_one_asked_for() -> None:
    """Its module is `flowstream`, and its annotations can be looked up, whatever else is loaded."""
    names = sorted(set(flowstream.__all__) - {"SourceLike", "Where"})
    program = (
        "import typing; from flowstream import {0} as one;"
        "isinstance(one, type) and typing.get_type_hints(one); print(one.__module__)"
    )
    found = outputs([program.format(name) for name in names])
    assert dict(zip(names, found, strict=True)) == {name: ["flowstream"] for name in names}


def test_submodules_are_attributes_without_being_imported() -> None:
    """`flowstream.topics.Topics` works after `import flowstream` alone; a listed one exists."""
    submodules = "abc asgi buffer encoders event_types limits policies runs server sources topics"
    program = (
        "import flowstream;"
        f"print(*[getattr(flowstream, name).__name__ for name in '{submodules}'.split()])"
    )
    assert output(program) == [f"flowstream.{name}" for name in submodules.split()]


def test_a_lazy_name_is_there_like_any_other() -> None:
    """It can be imported, is listed by `dir`, and is kept once it was loaded."""
    program = (
        "import {0} as p; assert '{1}' in dir(p) and '{1}' not in vars(p);"
        "from {0} import {1}; assert vars(p)['{1}'] is {1}; print('fine')"
    )
    found = outputs([program.format(package, name) for package, name in LAZY])
    assert dict(zip(LAZY, found, strict=True)) == {one: ["fine"] for one in LAZY}


@pytest.mark.parametrize("package", ["flowstream", "flowstream.encoders", "flowstream.sources"])
def test_no_lazy_name_is_that_of_a_submodule(package: str) -> None:
    """A lazy name stays what it is, whatever submodule was imported before it."""
    module = import_module(package)
    lazy = set(output(f"import {package} as p; print(*(set(p.__all__) - set(vars(p))))"))
    submodules = {file.stem for file in Path(module.__path__[0]).iterdir()}
    assert lazy
    assert not lazy & submodules


def test_a_name_that_is_nowhere_is_an_attribute_error() -> None:
    """A misspelt name is met as by any module."""
    look_up, _ = lazy_names("flowstream", {"serve": "flowstream.server"})
    with pytest.raises(AttributeError, match="module 'flowstream' has no attribute 'srve'"):
        look_up("srve")
