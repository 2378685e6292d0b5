"""What `import flowstream` loads, and the names that it loads when they are asked for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import flowstream
from flowstream._lazy import lazy_names

LIMITS = {"import flowstream": 12, "from flowstream import sse": 118}

LAZY = [
    ("flowstream", "serve"),
    ("flowstream", "sse"),
    ("flowstream", "Topic"),
    ("flowstream.encoders", "AGUI"),
    ("flowstream.sources", "follow"),
    ("flowstream.sources", "openai_tokens"),
    ("flowstream.sources", "postgres_rows"),
]


def output(program: str) -> list[str]:
    # What measures coverage would start in it, too, and import things of its own.
    environment = {name: value for name, value in os.environ.items() if "COV" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


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


@pytest.mark.parametrize("name", sorted(set(flowstream.__all__) - {"SourceLike", "Where"}))
def test_a_public_name_says_so_when_it_is_the_only_one_asked_for(name: str) -> None:
    """Its module is `flowstream`, and its annotations can be looked up, whatever else is loaded."""
    program = (
        f"import typing; from flowstream import {name} as one;"
        "isinstance(one, type) and typing.get_type_hints(one); print(one.__module__)"
    )
    assert output(program) == ["flowstream"]


def test_submodules_are_attributes_without_being_imported() -> None:
    """`flowstream.topics.Topics` works after `import flowstream` alone; a listed one exists."""
    submodules = "abc asgi buffer encoders event_types limits policies runs server sources topics"
    program = (
        "import flowstream;"
        f"print(*[getattr(flowstream, name).__name__ for name in '{submodules}'.split()])"
    )
    assert output(program) == [f"flowstream.{name}" for name in submodules.split()]


@pytest.mark.parametrize(("package", "name"), LAZY)
def test_a_lazy_name_is_there_like_any_other(package: str, name: str) -> None:
    """It can be imported, is listed by `dir`, and is kept once it was loaded."""
    program = (
        f"import {package} as p; assert '{name}' in dir(p) and '{name}' not in vars(p);"
        f"from {package} import {name}; assert vars(p)['{name}'] is {name}; print('fine')"
    )
    assert output(program) == ["fine"]


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
