"""``flowstream log``: look after the log that an app keeps its topics in.

A log's URL may have a password, which must not be in a command: other users of the machine can see
those, and shells keep them. So only the URL of a log in a file is taken as an argument, and any
other from the variable ``FLOWSTREAM_LOG_URL``, which the app reads, too, or from a file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from flowstream._errors import LogUnavailableError, MissingExtraError
from flowstream.demo._progress_bar import progress
from flowstream.limits import Replay
from flowstream.logs import open_log
from flowstream.logs._open_log import from_url
from flowstream.logs._sqlite_inspection import reading, summary, topic_rows
from flowstream.logs._sqlite_log import SQLiteLog
from flowstream.logs._sqlite_verification import verify
from flowstream.logs._topic_summary import TopicSummary
from flowstream.logs.postgres._installation import SCHEMES, install
from flowstream.logs.postgres._schema import schema_sql

if TYPE_CHECKING:
    from flowstream.logs.postgres._postgres_dsn import PostgresDSN
    from flowstream.logs.valkey._valkey_log import ValkeyLog

VARIABLE = "FLOWSTREAM_LOG_URL"
_HEADINGS = ("topic", "epochs", "head", "first", "kept", "bytes", "newest")


@click.group("log")
def log_commands() -> None:
    """Look after the log that an app keeps its topics in.

    URL is that of a file: sqlite:///events.db, or sqlite:////var/lib/app/events.db. It is left out
    where FLOWSTREAM_LOG_URL is set. The URL of a Valkey or Redis server or of a Postgres database
    is read from there alone, or from a file.
    """


_url = click.argument("url", required=False)
_url_file = click.option(
    "--url-file", metavar="FILE", type=click.Path(), help="Read the URL from a file."
)
_topic = click.option("--topic", metavar="NAME", help="One topic alone.")


@log_commands.command()
@_url
@_url_file
@click.option(
    "--grant", "roles", metavar="ROLE", multiple=True, help="Postgres: a role that uses the log."
)
@click.option(
    "--failover",
    type=click.Choice(["loses", "keeps"]),
    help="Postgres: whether a failover may lose commits. It keeps all of them if the standby that "
    "takes over is synchronous. Otherwise (the default) all topics then begin a new epoch.",
)
@click.option("--print", "printed", is_flag=True, help="Postgres: print the SQL, and run nothing.")
def init(
    url: str | None,
    url_file: str | None,
    roles: tuple[str, ...],
    failover: str | None,
    printed: bool,
) -> None:
    """Make the log, or upgrade it; or say why it can't be used.

    In Postgres this makes the schema "flowstream". Run it as the role that is to own it, before a
    release that needs it. Roles of the app are given the right to use it with --grant, and can
    neither read nor change its tables.
    """
    if printed:
        if url or url_file or failover:
            raise click.UsageError("--print takes --grant alone: it connects to nothing")
        click.echo(f"begin;\n{_schema(roles)}commit;")
        return
    given = _named(url, url_file) or (None if url else os.environ.get(VARIABLE))
    if given and given.partition(":")[0].lower() in SCHEMES:
        loses = None if failover is None else failover == "loses"
        with _errors():
            database = _install(given, roles, loses)
        granted = f"; {', '.join(roles)} may use it" if roles else ""
        click.echo(f"the log in the database {database} can be used{granted}")
        return
    if roles or failover:
        raise click.UsageError("--grant and --failover are for a log on Postgres")
    log = _found(url, given)
    with _errors():
        if not isinstance(log, SQLiteLog):
            _operations(log).try_to_open(log)
            click.echo(f"a log can be used in {log.where}")
            return
        trio.run(_open_and_close, log)
    click.echo(f"{log.path} is a log, and can be used")


@log_commands.command()
@_url
@_url_file
@_topic
@click.option("--json", "as_json", is_flag=True, help="One JSON object a topic and line.")
def inspect(url: str | None, url_file: str | None, topic: str | None, as_json: bool) -> None:
    """Show what each topic has: its epochs, its events, and how old the newest is."""
    log = _found(url, _named(url, url_file))
    with _errors():
        if isinstance(log, SQLiteLog):
            with reading(log.path) as db:
                rows = topic_rows(db, topic)
                found = [summary(db, row) for row in rows if topic is not None or not row.deleted]
        else:
            found = _operations(log).summaries(log, topic)
    if topic is not None and not found:
        raise _no_topic(log, topic)
    if as_json:
        for one in found:
            click.echo(json.dumps(_plain(one)))
    elif topic is not None:
        for name, value in _detail(found[0]):
            click.echo(f"{name:<10}  {value}")
    else:
        _show(found)


@log_commands.command("verify")
@_url
@_url_file
def verify_command(url: str | None, url_file: str | None) -> None:
    """Check all that can be checked on the log. The exit status is 1 if something is wrong."""
    log = _found(url, _named(url, url_file))
    findings: list[str] = []
    with _errors():
        if isinstance(log, SQLiteLog):
            with reading(log.path) as db:
                topics = len(topic_rows(db))
                with progress(f"verifying {topics:,} topics", topics + 2) as shown:
                    findings += verify(db, lambda done, _: shown(done))
        else:
            topics, findings = _operations(log).verify_log(log)
    for finding in findings:
        click.echo(finding)
    if findings:
        raise click.ClickException(
            f"{_where(log)} is not as a log leaves it ({len(findings):,} findings): restore it "
            "from a copy, and then run `flowstream log new-epoch`"
        )
    click.echo(f"{_where(log)} is in order: {topics:,} topics")


@log_commands.command()
@_url
@_url_file
@click.option("--topic", metavar="NAME", required=True, help="The topic.")
@click.option("--items", type=click.IntRange(min=0), help="Keep so many events.")
@click.option("--bytes", "size", type=click.IntRange(min=0), help="Keep so many bytes of events.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Keep events so long.")
def trim(
    url: str | None,
    url_file: str | None,
    topic: str,
    items: int | None,
    size: int | None,
    seconds: float | None,
) -> None:
    """Forget events of a topic now: what it need not keep, or all but what the options say."""
    log = _found(url, _named(url, url_file))
    given = {"items": items, "bytes": size, "seconds": seconds}
    changes: Any = {name: value for name, value in given.items() if value is not None}
    count: int | None = None
    with _errors():
        if isinstance(log, SQLiteLog):
            with reading(log.path) as db:
                rows = topic_rows(db, topic)
            if rows:
                keep = dataclasses.replace(rows[0].keep, **changes)
                count = trio.run(_trim, log, topic, keep)
        else:
            count = _operations(log).trim_topic(log, topic, changes)
    if count is None:
        raise _no_topic(log, topic)
    click.echo(f"forgotten of {topic!r}: {count:,}")


@log_commands.command("new-epoch")
@_url
@_url_file
def new_epoch(url: str | None, url_file: str | None) -> None:
    """Have every topic begin a new epoch, after the log was restored from a copy.

    Clients that had events which the copy does not have are then told that they missed some.
    Processes that have the log open go on.
    """
    log = _found(url, _named(url, url_file))
    with _errors():
        if isinstance(log, SQLiteLog):
            with reading(log.path):
                pass  # it is there: nothing is made
            trio.run(_begin_epochs, log)
        else:
            _operations(log).begin_epochs(log)
    click.echo(f"every topic of {_where(log)} begins a new epoch with its next event")


def _operations(log: ValkeyLog | PostgresDSN) -> Any:
    """Return what is done to a log on a server. It needs the server's extra."""
    if type(log).__name__ == "PostgresDSN":
        from flowstream.commands import _postgres_operations

        return _postgres_operations
    from flowstream.commands import _valkey_operations

    return _valkey_operations


def _where(log: SQLiteLog | ValkeyLog | PostgresDSN) -> str:
    """Return the path or the address of a log."""
    return str(log.path if isinstance(log, SQLiteLog) else log.where)


def _no_topic(log: SQLiteLog | ValkeyLog | PostgresDSN, topic: str) -> click.ClickException:
    return click.ClickException(f"{_where(log)} has no topic {topic!r}")


async def _open_and_close(log: SQLiteLog) -> None:
    async with open_log(log):
        pass


async def _trim(log: SQLiteLog, topic: str, keep: Replay) -> int:
    async with open_log(log):
        return await log.trim(topic, keep)


async def _begin_epochs(log: SQLiteLog) -> None:
    async with open_log(log):
        await log.new_epoch()


def _install(url: str, roles: Sequence[str], failover_loses: bool | None) -> str:
    try:
        return install(url, roles, failover_loses=failover_loses)
    except ValueError as error:
        raise click.UsageError(f"--grant: {error}") from None


def _schema(roles: Sequence[str]) -> str:
    try:
        return schema_sql(roles)
    except ValueError as error:
        raise click.UsageError(f"--grant: {error}") from None


def _named(url: str | None, url_file: str | None) -> str | None:
    """Return the URL in a file, if one was named.

    Raises:
        click.UsageError: a URL was given, too.
    """
    if url and url_file:
        raise click.UsageError("write the URL of a file, or --url-file, and not both")
    return _from_file(url_file) if url_file else None


def _from_file(path: str) -> str:
    """Return the URL in a file.

    Raises:
        click.UsageError: it can't be read, or has no URL in it.
    """
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise click.UsageError(f"--url-file {path} can't be read: {why}") from None
    if not text:
        raise click.UsageError(f"--url-file {path} is empty: write the URL into it")
    return text


def _found(url: str | None, named: str | None = None) -> SQLiteLog | ValkeyLog | PostgresDSN:
    """Return the log that a command is about; it is not open.

    Args:
        url: what the command was given.
        named: what another place has. None for the variable's.

    Raises:
        click.UsageError: there is none, or it is another kind.
    """
    if url is not None and not url.startswith("sqlite:"):
        raise click.UsageError(
            "the URL of a file is expected, sqlite:///events.db; one that may have a password is "
            f"written into {VARIABLE}, where other users of the machine can't see it"
        )
    given = url or named or os.environ.get(VARIABLE)
    if not given:
        raise click.UsageError(f"no log is named: write sqlite:///events.db, or set {VARIABLE}")
    try:
        log = from_url(given)
    except MissingExtraError as error:
        raise click.ClickException(str(error)) from None
    except (TypeError, ValueError) as error:
        # The message may have the URL in it, and so the password of a variable.
        why = str(error) if url else "it is not the URL of a log"
        raise click.UsageError(f"{VARIABLE if not url else 'URL'}: {why}") from None
    if isinstance(log, SQLiteLog):
        return log
    if given.partition(":")[0].lower() in SCHEMES:
        from flowstream.logs.postgres._postgres_dsn import PostgresDSN

        return PostgresDSN(given)
    if not given.startswith("memory"):
        from flowstream.logs.valkey._valkey_log import ValkeyLog

        if isinstance(log, ValkeyLog):
            return log
    raise click.UsageError(
        f"a {type(log).__name__} has nothing that this command could look after: name a file, "
        "sqlite:///events.db"
    )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except LogUnavailableError as error:
        raise click.ClickException(str(error)) from error


def _show(topics: list[TopicSummary]) -> None:
    """Print a table."""
    table = [_HEADINGS, *(_row(topic) for topic in topics)]
    widths = [max(len(row[at]) for row in table) for at in range(len(_HEADINGS))]
    for name, *rest in table:
        cells = [name.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        click.echo("  ".join(cells).rstrip())


def _row(topic: TopicSummary) -> tuple[str, ...]:
    numbers = (len(topic.epochs), topic.number, topic.first, topic.kept, topic.size)
    return (_printable(topic.name), *(f"{number}" for number in numbers), _age(topic.age))


def _detail(topic: TopicSummary) -> Iterator[tuple[str, str]]:
    yield "topic", _printable(topic.name) + (" (deleted)" if topic.deleted else "")
    for epoch, first in topic.epochs:
        yield "epoch", f"{epoch} from {first}"
    yield "head", f"{topic.number}"
    yield "first", f"{topic.first}"
    yield "kept", f"{topic.kept} events, {topic.size} bytes"
    yield "newest", _age(topic.age)
    keep = topic.keep
    yield "keeps", f"{keep.items} events, {keep.bytes} bytes, {keep.seconds:g} s"


def _plain(topic: TopicSummary) -> dict[str, Any]:
    keep = dataclasses.asdict(topic.keep)
    if keep["seconds"] == float("inf"):
        keep["seconds"] = None  # JSON has no infinity
    return dataclasses.asdict(topic) | {"keep": keep}


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _printable(name: str) -> str:
    """Return a name as it can be shown on a terminal."""
    return name if name.isprintable() else repr(name)
