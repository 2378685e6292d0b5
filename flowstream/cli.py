"""The command line: ``flowstream serve module:app``, ``flowstream demo`` and ``flowstream log``."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from functools import partial
from typing import Any

import click
import trio

from flowstream import __version__
from flowstream.server import ServerConfig, serve, streaming_config
from flowstream.server._config_file import ConfigFileError, read_config_file
from flowstream.server._hypercorn import LifespanFailureError, LifespanTimeoutError
from flowstream.server._settings import LEVELS, LOOPBACK, checked
from flowstream.server.log._log_handlers import FORMATS
from flowstream.server.log._output import own_output
from flowstream.server.log._process_log import ProcessLog
from flowstream.server.process._loading import (
    AppNotFoundError,
    explain,
    keep_what_is_loaded,
    load_app,
)
from flowstream.server.process._stopping import (
    Deadline,
    StopSignals,
    end_the_process,
    shutdown_bound,
)
from flowstream.tasks._failure import first_of

logger: logging.Logger = logging.getLogger("flowstream.server")

# What Hypercorn raises for an address that it cannot listen on.
_BAD_ADDRESS = (OSError, ValueError, OverflowError)


# Options of other servers, and what to write instead.
_FOREIGN = {
    "--host": "write --bind HOST:PORT",
    "--port": "write --bind HOST:PORT",
    "-p": "write --bind HOST:PORT",
    "--uds": "write --bind unix:PATH",
    "--fd": "write --bind fd://NUMBER",
    "--ssl-certfile": "write --certfile FILE",
    "--ssl-keyfile": "write --keyfile FILE",
    "--timeout": "write --worker-timeout SECONDS",
    "--timeout-worker-healthcheck": "write --worker-timeout SECONDS",
    "--timeout-graceful-shutdown": "write --graceful-timeout SECONDS",
    "--log-config": 'write logconfig = "FILE" into the file of --config',
    "--factory": "write MODULE:create_app(), with the parentheses",
    "--app-dir": "name the file itself, path/to/file.py:app",
    "--worker-class": "leave it out, all workers run on Trio",
    "-k": "leave it out, all workers run on Trio",
}


class _Command(click.Command):
    """A command that answers an option of another server with the option to write instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = _FOREIGN.get(error.option_name)
            if instead is None:
                raise
            message = f"there is no {error.option_name} here: {instead}"
            raise click.UsageError(message, ctx) from None


class _Main(click.Group):
    """The group of all commands. What only some of them need is loaded for these."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "log"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "log":
            from flowstream.commands._log_commands import log_commands

            return log_commands
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowstream")
def main() -> None:
    """Backpressure-aware streaming over HTTP, on Trio."""


@main.command("serve", cls=_Command)
@click.argument("app", metavar="MODULE:APP")
@click.option(
    "-b",
    "--bind",
    multiple=True,
    help="Address to listen on: HOST:PORT, unix:PATH or fd://NUMBER. May be given more than "
    f"once.  [default: {ServerConfig().bind[0]}]",
)
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that serve the app, under a supervisor that replaces them on SIGHUP without "
    "refusing anybody; 1 is enough for that.  [default: one process without a supervisor]",
)
@click.option("--certfile", metavar="FILE", help="Certificate, for TLS and HTTP/2.")
@click.option("--keyfile", metavar="FILE", help="The certificate's private key.")
@click.option(
    "--h2c/--no-h2c",
    default=None,
    help="Take HTTP/2 without TLS from clients that begin with it.  [default: no-h2c]",
)
@click.option(
    "--proxy-headers/--no-proxy-headers",
    default=None,
    help="Take a client's address and scheme from X-Forwarded-For and X-Forwarded-Proto of trusted "
    "proxies.  [default: proxy-headers]",
)
@click.option(
    "--forwarded-allow-ips",
    metavar="LIST",
    help="Trusted proxies: addresses, networks and UNIX sockets (unix:), with commas between; '*' "
    f"for anybody.  [default: $FORWARDED_ALLOW_IPS, or {LOOPBACK}]",
)
@click.option(
    "--reload", "use_reloader", flag_value=True, default=None, help="Start anew when code changes."
)
@click.option("--access-log", "accesslog", metavar="FILE", help="Access log; '-' for stdout.")
@click.option(
    "--log-level",
    "loglevel",
    type=click.Choice([level.lower() for level in LEVELS], case_sensitive=False),
    help="The least that is logged.  [default: info]",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="How the log is written; json is one object a line.  [default: text]",
)
@click.option(
    "--graceful-timeout",
    type=click.FloatRange(min=0),
    help="Seconds that streams may go on after they were told of the shutdown.  "
    f"[default: {ServerConfig.graceful_timeout}]",
)
@click.option(
    "--write-timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that a client may take nothing of what is written to it.  "
    f"[default: {ServerConfig.write_timeout}]",
)
@click.option(
    "--worker-timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that the event loop of a worker may be blocked; then it is killed and replaced. "
    f"With --workers or --reload; inf for no bound.  [default: {ServerConfig.worker_timeout}]",
)
@click.option("--readyz", metavar="PATH", help="Path that says whether the server is ready.")
@click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    help="TOML file with any of these and more settings. Options given here win over it.",
)
def serve_command(app: str, config_file: str | None, **options: Any) -> None:
    """Serve an ASGI app on Hypercorn's Trio worker.

    MODULE is a module, found in the current directory first, or a file; APP the name of the
    app in it, "app" if it is left out, or of a function that makes it: "create_app()".
    """
    own_output()  # before a logging configuration takes standard output and error
    config, supervised = _make_config(config_file, options)
    with ProcessLog(config) as log:
        try:
            if supervised:
                log.begin()
                _run_workers(app, config)
            else:
                _load_and_run(app, config, log)
        except click.UsageError:
            raise
        except click.ClickException as error:
            if config.log_format != "json":
                raise
            cause = error.__cause__ if isinstance(error, _NotServedError) else None
            logger.critical("%s", error.format_message(), exc_info=cause)
            raise SystemExit(error.exit_code) from None


def _load_and_run(app: str, config: ServerConfig, log: ProcessLog) -> None:
    try:
        found = load_app(app)
    except AppNotFoundError as error:
        raise click.BadParameter(str(error), param_hint="MODULE:APP") from error
    except Exception as error:
        trace, reason = explain(error, app)
        raise _NotServedError(reason, trace) from error
    keep_what_is_loaded()
    log.begin()
    _run(found, config)


class _NotServedError(click.ClickException):
    """The app's module has failed. Show its traceback first."""

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason)
        self._trace = trace

    def show(self, file: Any = None) -> None:
        click.echo(self._trace, file=file, err=True, nl=False)
        super().show(file)


@main.command(cls=_Command)
@click.option(
    "-b",
    "--bind",
    multiple=True,
    default=["127.0.0.1:8000"],
    show_default=True,
    help="Address to listen on: HOST:PORT.",
)
@click.option(
    "--host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A name or address under which browsers may ask for it, besides localhost. May be given "
    "more than once.",
)
@click.option(
    "--model",
    "model_file",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Have a language model of this machine make the text: that of the extra llm-local, "
    "or a GGUF file.",
)
def demo(bind: tuple[str, ...], hosts: tuple[str, ...], model_file: str | None) -> None:
    """Serve the demo: real streams to watch, fast and slow.

    It answers to localhost only, so that no web page can reach it by a name of its own; --host
    adds a name of this machine.
    """
    from flowstream.demo.app import create_app

    model = None if model_file is None else _load_model(model_file)
    app = create_app(model=model, hosts=hosts)
    config = streaming_config(bind=list(bind))
    with ProcessLog(config):  # without begin(): a page of the demo has many streams
        with contextlib.suppress(OSError):  # nobody reads it
            click.echo(f"flowstream demo: open http://{bind[0]}/ in a browser (Ctrl-C to stop)")
        _run(app, config)


def _load_model(file: str) -> Any:
    from flowstream.demo.model import load

    click.echo("flowstream demo: loading the model ...")
    try:
        return load(file)
    except (ImportError, OSError, ValueError) as error:
        raise click.ClickException(f"cannot load the model: {error}") from error


def _make_config(file: str | None, options: dict[str, Any]) -> tuple[ServerConfig, bool]:
    """Return the configuration of a file and of options, and whether there is a supervisor.

    `--workers` asks for a supervisor, also with a single worker: on SIGHUP the supervisor starts a
    new worker, and replaces the old one when the new one is ready.
    """
    given = {name: value for name, value in options.items() if value is not None}
    given["bind"] = list(options["bind"])
    if not given["bind"]:
        del given["bind"]
    try:
        settings = read_config_file(file) if file else {}
        config = checked(streaming_config(**(settings | given)))
    except ConfigFileError as error:
        raise click.BadParameter(str(error), param_hint="--config") from error
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    try:
        config.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise click.ClickException(_about_tls(config, error)) from error
    try:
        _ = config.log
    except Exception as error:
        raise click.ClickException(f"cannot set up logging: {error}") from error
    supervised = "workers" in given or config.workers > 1 or config.use_reloader
    if not supervised and "worker_timeout" in settings | given:
        raise click.UsageError(
            "worker_timeout needs a supervisor, which replaces a worker that hangs: add --workers 1"
        )
    return config, supervised


def _about_tls(config: ServerConfig, error: Exception) -> str:
    for path in filter(None, (config.certfile, config.keyfile, config.ca_certs)):
        try:
            with open(path, "rb"):
                pass
        except OSError as unreadable:
            return f"cannot read {path!r}: {unreadable.strerror}"
    return f"cannot use certificate {config.certfile!r} with key {config.keyfile!r}: {error}"


def _cannot_listen(config: ServerConfig, error: BaseException) -> click.ClickException:
    addresses = [*config.bind, *config.insecure_bind, *config.quic_bind]
    return click.ClickException(f"cannot listen on {', '.join(addresses)}: {error}")


def _run_workers(app: str, config: ServerConfig) -> None:
    if sys.platform == "win32":
        raise click.ClickException("--workers and --reload need a Unix")
    from flowstream.server.process._supervisor import Supervisor, WorkersError

    try:
        supervisor = Supervisor(app, config)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    try:
        sockets = supervisor.open_sockets()
    except _BAD_ADDRESS as error:
        raise _cannot_listen(config, error) from error
    try:
        trio.run(supervisor.run, sockets)
    except* WorkersError as group:
        raise click.ClickException(str(first_of(group))) from group


def _run(app: Any, config: ServerConfig) -> None:
    listening = trio.Event()
    deadline = Deadline(lambda: shutdown_bound(config), end_the_process)
    threads = set(threading.enumerate())
    try:
        trio.run(_serve_until_signal, app, config, listening, deadline)
    except Exception as error:
        cause = first_of(error)
        if isinstance(cause, (LifespanFailureError, LifespanTimeoutError)):
            raise click.ClickException(str(cause)) from error
        if not listening.is_set() and isinstance(cause, _BAD_ADDRESS):
            # This can only be about an address: before it listens, Hypercorn lets no error of the
            # app through.
            raise _cannot_listen(config, cause) from error
        raise
    finally:
        # Python waits for the app's own threads before it exits. The deadline bounds that, too.
        if all(thread.daemon for thread in set(threading.enumerate()) - threads):
            deadline.met()


async def _serve_until_signal(
    app: Any, config: ServerConfig, listening: trio.Event, deadline: Deadline
) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # unless nohup(1) has made us ignore it
    with StopSignals(numbers, deadline, final=True) as stop:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
            listening.set()
