"""The command line: ``flowstream serve module:app`` and ``flowstream demo``."""

from __future__ import annotations

import sys
from typing import Any

import click
import trio
from hypercorn.utils import NoAppError, load_application

from flowstream import __version__
from flowstream.server import serve, streaming_config


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

    MODULE is an importable module or a file, APP the name of the app in it.
    """
    try:
        wrapped: Any = load_application(f"asgi:{app}" if ":" in app else f"asgi:{app}:app", 0)
    except NoAppError as error:
        raise click.BadParameter(str(error), param_hint="MODULE:APP") from error
    _run(wrapped.app, bind, accesslog=access_log, graceful_timeout=graceful_timeout)


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
    try:
        trio.run(_serve_until_signal, app, config)
    except* OSError as group:
        error = group.exceptions[0]
        click.echo(f"cannot listen on {', '.join(bind)}: {error}", err=True)
        sys.exit(1)


async def _serve_until_signal(app: Any, config: Any) -> None:
    import signal

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def signalled() -> None:
            async for _ in signals:
                return

        await serve(app, config, shutdown_trigger=signalled)
