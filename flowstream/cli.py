"""The command line: ``flowstream serve module:app`` and ``flowstream demo``."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import click
import trio
from hypercorn.utils import LifespanFailureError

from flowstream import __version__
from flowstream.server import serve, streaming_config
from flowstream.server._loading import AppNotFoundError, load_app


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowstream")
def main() -> None:
    """Backpressure-aware streaming over HTTP, on Trio."""


@main.command("serve")
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "-b",
    "--bind",
    multiple=True,
    default=["127.0.0.1:8000"],
    show_default=True,
    help="Address to listen on: HOST:PORT, or unix:PATH. May be given more than once.",
)
@click.option("--access-log", default=None, metavar="FILE", help="Access log; '-' for stdout.")
@click.option(
    "--graceful-timeout",
    default=3.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that streams may go on after SIGINT or SIGTERM.",
)
def serve_command(
    app: str, bind: tuple[str, ...], access_log: str | None, graceful_timeout: float
) -> None:
    """Serve an ASGI app on Hypercorn's Trio worker.

    MODULE is a module, found in the current directory first, or a file; APP the name of the
    app in it, "app" if it is left out, or of a function that makes it: "create_app()".
    """
    try:
        found = load_app(app)
    except AppNotFoundError as error:
        raise click.BadParameter(str(error), param_hint="MODULE:APP") from error
    _run(found, bind, accesslog=access_log, graceful_timeout=graceful_timeout)


@main.command()
@click.option(
    "-b",
    "--bind",
    multiple=True,
    default=["127.0.0.1:8000"],
    show_default=True,
    help="Address to listen on: HOST:PORT.",
)
def demo(bind: tuple[str, ...]) -> None:
    """Serve the demo: real streams to watch, fast and slow."""
    from flowstream.demo.app import create_app

    app = create_app()
    click.echo(f"flowstream demo: open http://{bind[0]}/ in a browser (Ctrl-C to stop)")
    _run(app, bind)


def _run(app: Any, bind: tuple[str, ...], **settings: Any) -> None:
    config = streaming_config(bind=list(bind), **settings)
    listening = trio.Event()
    try:
        trio.run(_serve_until_signal, app, config, listening)
    except Exception as error:
        cause = _first(error)
        if isinstance(cause, LifespanFailureError):
            raise click.ClickException(str(cause)) from error
        if not listening.is_set() and isinstance(cause, (OSError, ValueError, OverflowError)):
            # Hypercorn makes its sockets of what it is given; nothing else of the kind can
            # come out of it before it listens, since it keeps the app's own errors to itself.
            raise click.ClickException(f"cannot listen on {', '.join(bind)}: {cause}") from error
        raise


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve_until_signal(app: Any, config: Any, listening: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def signalled() -> None:
            await anext(signals)
            # A client that takes nothing can hold up the server's end: a second signal is
            # not caught.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, config, shutdown_trigger=signalled))
            listening.set()
