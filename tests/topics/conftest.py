"""Topics on each log: fixtures of tests that are written for it, and a mark for those of before.

A test that is marked ``on_each_log`` was written for topics in memory, and holds for all: it runs
in memory, and then once inside an app with each log. There the clock is the real one, since a file
and a server do not jump.

Those that are not marked have one of these reasons:

* They give events ids of their own, or call `publish_nowait`. A log refuses both with a sentence.
* They say at which second something happens, which needs the clock that jumps.
* They say who is handed an event before `publish` returns, or how much is dropped for a slow client
  by then. From a log events come in batches, a moment later, to clients that have found their
  place.
* They look inside: at the history, at what is encoded how often, at the parts of a fan-out.
* They open an app of their own (`publish_from`), or play a log (`test_sender.py`, `test_log_*.py`).
* Two topics of one name are two topics; in a log they are one.
* It does not matter to them where events are kept: arguments, HEAD, authorization, formats.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest
from each_log import ALL, BEFORE, MEMORY, SHARED, Store

from flowstream.quart import Flowstream


@pytest.fixture(params=ALL)
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    """Give one log after the other, memory too."""
    return Store.of(request.param, request, tmp_path)


@pytest.fixture(params=SHARED)
def shared_store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    """Give each log that several processes can share."""
    return Store.of(request.param, request, tmp_path)


# For every test: pytest drops what a test takes no part in, also if it is parametrized.
@pytest.fixture(autouse=True)
def _store_around(request: pytest.FixtureRequest) -> Store | None:
    """Give the log that a marked test runs in; None for other tests."""
    if not hasattr(request, "param"):
        return None
    return Store.of(request.param, request, request.getfixturevalue("tmp_path"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have a marked test run on each log."""
    if metafunc.definition.get_closest_marker("on_each_log"):
        metafunc.parametrize("_store_around", BEFORE, indirect=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: Any) -> Generator[None, Any, Any]:
    """Open the log around a marked test, in its own task."""
    store = item.funcargs.get("_store_around") if hasattr(item, "funcargs") else None
    if store is not None and store.kind != MEMORY:
        item.obj = _in_an_app(item.obj, store)
    return (yield)


def _in_an_app(test: Any, store: Store) -> Any:
    assert inspect.iscoroutinefunction(test), "mark only tests that are async"

    @functools.wraps(test)
    async def run(**arguments: Any) -> None:
        async with Flowstream(log=store.url, namespace=store.namespace):
            await test(**arguments)

    return run


@pytest.fixture
def autojump_clock(request: pytest.FixtureRequest, _store_around: Store | None) -> Any:
    """Give the clock that jumps; or the real one, if the test is in a log outside this process."""
    if _store_around is not None and _store_around.kind != MEMORY:
        return None
    return request.getfixturevalue("_jumping_clock")


@pytest.fixture
def _jumping_clock() -> Any:
    from trio.testing import MockClock

    return MockClock(autojump_threshold=0)
