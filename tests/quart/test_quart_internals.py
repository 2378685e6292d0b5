"""The parts of Quart that flowstream calls by their private names, in every shape they have."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from quart_trio import QuartTrio
from werkzeug.exceptions import Forbidden, HTTPException

from flowstream.quart._internals import check_parameters, choose_shape

ROOT = Path(__file__).parents[2]


class WithoutContext:
    async def handle_http_exception(self, error: HTTPException) -> HTTPException:
        return error


class WithContext:
    async def handle_http_exception(self, ctx: object, error: HTTPException) -> object:
        return ctx, error


class Changed:
    async def handle_http_exception(self, error: HTTPException, request: object) -> None: ...


async def test_an_http_error_is_handed_over_alone_where_quart_takes_it_alone() -> None:
    """Quart 0.22's shape needs no context."""
    error = Forbidden()
    assert await choose_shape(WithoutContext)(WithoutContext(), error) is error


async def test_an_http_error_comes_with_its_context_where_quart_asks_for_it() -> None:
    """Quart 0.23's shape is given the context that the handler runs in."""
    app = QuartTrio(__name__)
    error = Forbidden()
    async with app.app_context():
        given, same = await choose_shape(WithContext)(WithContext(), error)
    assert same is error
    assert given.app is app


@pytest.mark.parametrize("owner", [Changed, object])
def test_a_quart_that_has_changed_is_named_with_the_versions_that_were_tried(owner: type) -> None:
    """Another signature is an error at import that says what to install."""
    with pytest.raises(RuntimeError, match=r"handle_http_exception.*tried with Quart 0\.22"):
        choose_shape(owner)


def test_parameters_are_compared_by_name_and_order() -> None:
    """Parameters in another order are not those expected."""
    with pytest.raises(RuntimeError, match=r"Changed\.handle_http_exception takes self, error"):
        check_parameters(Changed, "handle_http_exception", ("self", "request", "error"))


@pytest.mark.parametrize("name", ["hypercorn", "quart", "quart-trio"])
def test_a_library_of_which_private_parts_are_used_is_bounded(name: str) -> None:
    """Every way to install Hypercorn, Quart or Quart-Trio stops below the first untried version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(one for extra in extras for one in extra)]
    bounds = [one for one in asked if re.match(rf"{name}\b(?!-)", one)]
    assert bounds
    assert all(re.search(r",<\d", one) for one in bounds), bounds
