"""Opening a log by its URL, and what the log's errors say."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import trio

import flowstream.logs
from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import LogFullError, LogUnavailableError, MemoryLog, SQLiteLog, open_log
from flowstream.logs._open_log import from_url


def test_a_url_names_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three slashes are for a path from here, four for one from the root, %20 for a space."""
    monkeypatch.chdir(tmp_path)
    for url, path, synchronous in (
        ("sqlite:///events.db", tmp_path / "events.db", "FULL"),
        ("sqlite:////var/lib/events.db", Path("/var/lib/events.db"), "FULL"),
        ("sqlite:///my%20events.db?synchronous=NORMAL", tmp_path / "my events.db", "NORMAL"),
    ):
        log = from_url(url)
        assert isinstance(log, SQLiteLog)
        assert (log._file.path, log._file.synchronous) == (str(path), synchronous)
    assert isinstance(from_url("memory:"), MemoryLog)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://events.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:", "three slashes"),
        ("sqlite:///e.db?mode=ro", "FULL or NORMAL"),
        ("sqlite:///e.db?synchronous=OFF", "'FULL' or 'NORMAL'"),
        ("sqlite:///e.db#x", "FULL or NORMAL"),
        ("sqlite:///:memory:", "MemoryLog"),
        ("memory:///x", "write memory:"),
        ("events.db", "sqlite:///events.db"),
        ("kafka://x", "no log 'kafka'"),
        ("", "sqlite:///events.db"),
    ],
)
async def test_a_wrong_url_says_what_to_write(url: str, says: str) -> None:
    """Nothing is made, and the message has the right form."""
    with pytest.raises(ValueError, match=r"\S") as raised:
        async with open_log(url):
            pass
    assert says in str(raised.value)


async def test_what_is_no_log_is_refused() -> None:
    """A path object is no URL."""
    with pytest.raises(TypeError, match="sqlite:///"):
        async with open_log(Path("events.db")):  # type: ignore[arg-type]
            pass


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((b"events.db",), TypeError),
        ((7,), TypeError),
        (("",), ValueError),
        ((":memory:",), ValueError),
        (("e.db", "OFF"), ValueError),
        (("e.db", "full"), ValueError),
    ],
)
def test_a_wrong_argument_of_a_sqlite_log_is_refused(
    arguments: tuple[object, ...], kind: type[Exception]
) -> None:
    """It fails where it is written."""
    with pytest.raises(kind, match=r"path|synchronous"):
        SQLiteLog(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="patience"):
        SQLiteLog("e.db", patience=0)


async def test_an_error_of_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    """No group is around it, and the log is closed."""
    for url in ("memory:", f"sqlite:///{tmp_path}/events.db"):
        with pytest.raises(KeyError, match="mine"):
            async with open_log(url) as log:
                raise KeyError("mine")
        with pytest.raises(RuntimeError, match="not open"):
            await log.heads(["news"])


async def test_an_error_of_a_hint_comes_out(tmp_path: Path) -> None:
    """A callback that fails ends the log, and is not swallowed."""

    def fail(*args: object) -> None:
        raise KeyError("in a hint")

    with pytest.raises(KeyError, match="in a hint"):  # noqa: PT012
        async with open_log(f"sqlite:///{tmp_path}/events.db", hint=fail) as log:
            await log.watch(["news"])
            await log.append("news", [LogEntry(b"x")], keep=Replay(), token="t")
            await trio.sleep_forever()


def test_errors_can_be_pickled() -> None:
    """What they say, and `maybe`, survive it."""
    for kind in (LogUnavailableError, LogFullError):
        error = pickle.loads(pickle.dumps(kind("why", maybe=True)))
        assert (type(error), str(error), error.maybe) == (kind, "why", True)


def test_the_module_has_its_names() -> None:
    """They are listed, and a name that is not there says so."""
    assert {*flowstream.logs.__all__} <= {*dir(flowstream.logs)}
    with pytest.raises(AttributeError, match="KafkaLog"):
        _ = flowstream.logs.KafkaLog
