"""Load the app that ``module:app`` on a command line names.

Hypercorn has a loader, too. This one does not evaluate the name as code, says in one sentence what
is wrong, and checks before serving begins whether it has found an app.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from quart import Quart
from quart_trio import QuartTrio

from flowstream.server._hypercorn import LifespanFailureError, LifespanTimeoutError
from flowstream.tasks._failure import first_of

_PACKAGE = str(Path(__file__).parents[2])


class AppNotFoundError(Exception):
    """The name does not lead to an ASGI app that runs on Trio; the message says why."""


def load_app(target: str) -> Any:
    """Return the app that `target` names.

    Args:
        target: ``module:app``, where the module is looked for in the current directory first;
            or ``path/to/file.py:app``. The app may be an attribute of an attribute, or a call
            ``make_app()`` that makes it. The default for the app's name is ``app``.

    Raises:
        AppNotFoundError: there is no such app, or it can't run on Trio.
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


def keep_what_is_loaded() -> None:
    """Exclude all current objects from garbage collection, since they stay anyway.

    A full collection stops the event loop while it visits every object. The client library of a
    language model alone has 100,000 of them, which take 60 ms; a server's own work is little in
    comparison. Call this only in a process that is the server's own.
    """
    gc.collect()
    gc.freeze()


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
    # As for `python -m`: the current directory comes before installed modules.
    sys.path.insert(0, directory or str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one that it imports does not
        raise AppNotFoundError(f"there is no module {name!r} in {sys.path[0]}") from None
    except (TypeError, ValueError) as error:
        if name.startswith("."):
            raise AppNotFoundError(f"{name!r} is not a module's name") from error
        raise


def _check(app: Any, target: str) -> None:
    if not callable(app):
        raise AppNotFoundError(f"{target!r} is not an ASGI app but a {type(app).__name__}")
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
            f"{target!r} cannot be called with an ASGI app's scope, receive and send; if it is "
            "a function that makes the app, put () behind its name"
        ) from None


def explain(error: BaseException, target: str) -> tuple[str, str]:
    """Explain why the app that `target` names does not start.

    Returns:
        The traceback, from the app's own code on, or "" if it would explain nothing; and one
        sentence.
    """
    error = first_of(error)
    if isinstance(error, (AppNotFoundError, LifespanFailureError, LifespanTimeoutError)):
        return "", str(error)
    tb = error.__traceback__
    while tb is not None and _is_ours(tb):
        tb = tb.tb_next
    if tb is None and not isinstance(error, SyntaxError):
        tb = error.__traceback__  # it never reached the app's code
    trace = "".join(traceback.format_exception(type(error), error, tb))
    return trace, f"{target!r} cannot be served: {_in_one_line(error)}"


def files_in(error: BaseException) -> list[Path]:
    """Return the files in an error's traceback, and the file of a syntax error."""
    error = first_of(error)
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        names.append(error.filename)
    return [path for path in map(Path, names) if path.is_file()]


def _is_ours(tb: TracebackType) -> bool:
    name = tb.tb_frame.f_code.co_filename
    return name.startswith((_PACKAGE, "<frozen ")) or name == importlib.__file__


def _in_one_line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(error)[-1].split())
