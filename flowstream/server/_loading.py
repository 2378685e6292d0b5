"""Find the app that ``module:app`` on a command line stands for.

Hypercorn has a loader, too. This one evaluates nothing, says what is wrong in one sentence,
and finds out before serving begins whether what it found can be an app at all.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from quart import Quart
from quart_trio import QuartTrio


class AppNotFoundError(Exception):
    """What was given names no ASGI app that runs on Trio; the message says why not."""


def load_app(target: str) -> Any:
    """Return the app that `target` names.

    Args:
        target: ``module:app``, where the module is found in the current directory first;
            or ``path/to/file.py:app``. The app may be an attribute of an attribute, or end
            in ``()`` to be made by a function. Without it, it is ``app``.

    Raises:
        AppNotFoundError: there is none, or it is no app for Trio.
        Exception: whatever the module raises while it is imported.
    """
    place, _, name = target.partition(":")
    if not place:
        raise AppNotFoundError("expected MODULE:APP, such as hello:app or path/to/hello.py:app")
    module = _load_file(Path(place)) if place.endswith(".py") or "/" in place else _load(place)
    name = name or "app"
    attribute, call = name.removesuffix("()"), name.endswith("()")
    app: Any = module
    for part in attribute.split("."):
        try:
            app = getattr(app, part)
        except AttributeError:
            raise AppNotFoundError(f"there is no {attribute!r} in {place!r}") from None
    app = app() if call else app
    _check(app, target)
    return app


def _load_file(path: Path) -> Any:
    file = path if path.suffix == ".py" else path.with_suffix(".py")
    if not file.is_file():
        raise AppNotFoundError(f"there is no file {str(file)!r}")
    module = _load(file.stem, str(file.resolve().parent))
    found = getattr(module, "__file__", None)
    if found is None or not file.samefile(found):
        raise AppNotFoundError(
            f"{str(file)!r} has the name of another module, {found or 'a built-in one'}: rename it"
        )
    return module


def _load(name: str, directory: str | None = None) -> Any:
    # As for `python -m`: what is in the current directory is found before what is installed.
    sys.path.insert(0, directory or str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there; one that it imports is not
        raise AppNotFoundError(f"there is no module {name!r} in {sys.path[0]}") from None
    except (TypeError, ValueError) as error:
        if name.startswith("."):
            raise AppNotFoundError(f"{name!r} is not a module's name") from error
        raise


def _check(app: Any, target: str) -> None:
    if not callable(app):
        raise AppNotFoundError(f"{target!r} is no ASGI app but a {type(app).__name__}")
    if isinstance(app, Quart) and not isinstance(app, QuartTrio):
        raise AppNotFoundError(f"{target!r} is a Quart app on asyncio: make it a QuartTrio")
    try:
        signature = inspect.signature(app)
    except ValueError:  # a built-in has none
        return
    try:
        signature.bind({}, None, None)
    except TypeError:
        raise AppNotFoundError(
            f"{target!r} cannot be called with an ASGI app's scope, receive and send; to call "
            "a function that makes the app, put () behind its name"
        ) from None
