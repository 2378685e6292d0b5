"""Two processes on one file: what must reach all workers does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "_worker_program.py"


class WorkerProcess:
    """A worker: see `_worker_program`."""

    def __init__(self, url: str, users: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, url, users],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # A test that waits for a line that never comes is to fail.
        self._guard = threading.Timer(120, self.process.kill)
        self._guard.start()

    def until(self, wanted: str) -> list[str]:
        """Read lines until this one; return those before it. Waits for it as long as it takes."""
        assert self.process.stdout is not None
        before: list[str] = []
        for line in self.process.stdout:
            if line.strip().startswith(wanted):
                return before
            before.append(line.strip())
        raise AssertionError(f"it has ended, and never said {wanted!r}: {before}")

    def command(self, text: str) -> None:
        """Tell it to do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill it, and let go of its pipes."""
        self._guard.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two of them, with clients ada and bob, and ada and eve."""
    url = f"sqlite:///{tmp_path}/events.db"
    one = WorkerProcess(url, "ada,bob")
    one.until("told 2")
    other = WorkerProcess(url, "ada,eve")
    other.until("told 4")
    yield one, other
    one.end()
    other.end()


def test_a_subject_is_revoked(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    """On the worker that revokes, and on the other; others' streams go on."""
    one, other = workers
    one.command("revoke ada")
    assert "ended ada stopped" in [*one.until("revoked 1"), *(one.until("told 2"))]
    assert "ended ada stopped" in other.until("told 2")
    other.command("total")
    other.until("total 2")


def test_a_topic_is_deleted(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    """All subscribers end; the topic can be used, in a new epoch."""
    one, other = workers
    for worker in workers:
        worker.command("publish old")
        worker.until("published")
    other.command("delete")
    lines = other.until("deleted")
    for worker in workers:
        lines += worker.until("told 0")
    ended = [line for line in lines if line.startswith("ended")]
    assert sorted(ended) == [f"ended {user} stopped" for user in ("ada", "ada", "bob", "eve")]
    one.command("publish new")
    one.until("published")


@pytest.mark.chaos  # it kills, and waits for what is due only then
def test_a_worker_is_killed(workers: tuple[WorkerProcess, WorkerProcess]) -> None:
    """Its clients are no longer counted when its share has expired."""
    one, other = workers
    one.end()
    other.until("told 2")
    other.command("total")
    other.until("total 2")
