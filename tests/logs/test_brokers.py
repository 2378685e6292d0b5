"""The brokers of the chaos ledger break as their methods say: what is lost, what is kept."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable

import psycopg
import pytest
from chaos.broker import Broker
from chaos.postgres_broker import PostgresBroker
from chaos.valkey_broker import ValkeyBroker
from real_servers.programs import missing
from real_servers.wire import WireError, call

pytestmark = pytest.mark.chaos

DICE = random.Random(5)


class _Notes:
    """Notes in a broker, written and read by its address."""

    def __init__(self, kind: str) -> None:
        self.broker: Broker = (
            PostgresBroker() if kind == "postgres" else ValkeyBroker(kind, fsync="always")
        )

    def write(self, note: str) -> None:
        raise NotImplementedError

    def read(self) -> set[str]:
        raise NotImplementedError


class _ValkeyNotes(_Notes):
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._port = int(self.broker.url.rpartition(":")[2].partition("/")[0])

    def write(self, note: str) -> None:
        call(self._port, "SADD", "notes", note)

    def read(self) -> set[str]:
        return set(call(self._port, "SMEMBERS", "notes"))


class _PostgresNotes(_Notes):
    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._do("CREATE TABLE IF NOT EXISTS notes (note text)")

    def _do(self, query: str, *values: str) -> list[tuple[str]]:
        with psycopg.connect(self.broker.url, autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def write(self, note: str) -> None:
        self._do("INSERT INTO notes VALUES (%s)", note)

    def read(self) -> set[str]:
        return {note for (note,) in self._do("SELECT note FROM notes")}


@pytest.fixture(params=["valkey", "redis", "postgres"])
def notes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.param == "redis" and shutil.which("redis-server") is None:
        missing("no redis-server on PATH")
    # Its log is not what is tried here.
    monkeypatch.setattr(PostgresBroker, "_log", lambda self, command: None)
    found = (_PostgresNotes if request.param == "postgres" else _ValkeyNotes)(request.param)
    with found.broker:
        yield found


def _writing(notes: _Notes, *texts: str) -> Callable[[], None]:
    def wait() -> None:
        for text in texts:
            notes.write(text)

    return wait


def test_what_was_acknowledged_outlives_kills_freezes_and_a_failover_in_step(
    notes: _Notes,
) -> None:
    """Twice over, so that the first server is in charge again."""
    for number in range(2):
        for what in ("restart", "cut_sessions", "fail_over_in_step"):
            notes.write(f"{what} {number}")
            method = getattr(notes.broker, what)
            method() if what == "restart" else method(DICE)
        notes.broker.freeze()
        notes.broker.thaw()
        notes.write(f"freeze {number}")
    assert len(notes.read()) == 8


def test_a_failover_to_a_server_that_lags_loses_the_end_and_no_more(notes: _Notes) -> None:
    """There and back: what came while it lagged is gone, what came before is there."""
    for number in range(2):
        notes.write(f"kept {number}")
        notes.broker.fail_over_behind(DICE, _writing(notes, f"lost {number}"))
    assert notes.read() == {"kept 0", "kept 1"}


def test_of_a_split_brain_the_address_keeps_what_the_new_server_took(notes: _Notes) -> None:
    """Who comes by the address meets the new one at once."""
    notes.write("before")
    notes.broker.split(DICE, _writing(notes, "meanwhile"))
    notes.write("after")
    assert notes.read() == {"before", "meanwhile", "after"}


def test_a_lost_tail_is_lost(notes: _Notes) -> None:
    """Most of what came last is gone."""
    texts = [f"note {number} {'.' * 300}" for number in range(100)]
    notes.broker.lose_tail(random.Random(1), _writing(notes, *texts))
    assert len(notes.read()) < 100


def test_refused_writes_are_refused_until_they_are_taken(notes: _Notes) -> None:
    """Reads go on meanwhile."""
    notes.write("before")
    notes.broker.refuse_writes()
    with pytest.raises((WireError, psycopg.errors.ReadOnlySqlTransaction)):
        _writing(notes, *["meanwhile"] * 1000)()  # Postgres takes a moment to read its settings
    assert "before" in notes.read()
    notes.broker.take_writes()
    notes.broker.restart()
    notes.write("after")
    assert "after" in notes.read()
