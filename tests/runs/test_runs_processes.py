"""Runs over several processes and one log: workers are killed, frozen and deployed at random."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from real_servers.fixtures import url_of

from flowstream.logs.postgres._schema import schema_sql

PROGRAM = Path(__file__).parent / "log_worker_process.py"
WORKERS, RUNS, EVENTS = 3, 100, 40
# Seconds for which workers are disturbed, and after which all must have ended.
DISTURBED, MOST = 15.0, 150.0


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def disturb(dice: random.Random, worker: subprocess.Popen[str]) -> str:
    """Do something to a worker; return what. It may have ended then."""
    what = dice.choice(["kill", "deploy", "freeze"])
    if what == "kill":
        worker.kill()
        worker.wait()
    elif what == "deploy":
        worker.terminate()
        worker.wait(60)
    else:
        worker.send_signal(signal.SIGSTOP)
        time.sleep(dice.uniform(2.5, 4.0))  # longer than the lease
        worker.send_signal(signal.SIGCONT)
    return what


def check(line: str) -> str:
    """Check what a client of one run got; return how the run has ended."""
    told = json.loads(line)
    got, code = told["got"], told["code"]
    numbers = [event.get("number") for event in got]
    assert numbers == list(range(1, len(got) + 1)), (told["key"], code, numbers)
    assert len({event["owner"] for event in got}) <= 1, told  # nobody else has written
    assert code in ("completed", "owner_lost"), told
    if code == "completed":
        assert len(got) == EVENTS, told
    return code


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_hundred_runs_survive_kills_freezes_and_deploys(tmp_path: Path) -> None:
    """Every client ends with the whole answer, or with what there is and `owner_lost`."""
    run_and_disturb(f"sqlite:///{tmp_path}/events.db", tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_hundred_runs_survive_over_valkey(valkey_server: str, tmp_path: Path) -> None:
    """So they do on several machines, with a broker."""
    run_and_disturb(valkey_server, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_hundred_runs_survive_over_postgres(postgres_database: str, tmp_path: Path) -> None:
    """So they do on several machines, with a database."""
    with psycopg.connect(postgres_database) as connection:
        connection.execute(schema_sql())
    run_and_disturb(url_of(postgres_database), tmp_path)


def run_and_disturb(url: str, tmp_path: Path) -> None:
    """Have workers make a hundred runs in a log, disturb them, and check what clients get."""
    dice = random.Random(7)
    done: Counter[str] = Counter()
    clients = start("clients", url, RUNS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = (tmp_path / "workers").open("w")

    def worker(share: int) -> subprocess.Popen[str]:
        return start("worker", url, share, WORKERS, RUNS, stderr=said)

    workers = [worker(share) for share in range(WORKERS)]
    try:
        until = time.monotonic() + DISTURBED
        while time.monotonic() < until:
            time.sleep(dice.uniform(0.8, 2.0))
            share = dice.randrange(WORKERS)
            done[disturb(dice, workers[share])] += 1
            if workers[share].poll() is not None:
                workers[share] = worker(share)
        output, errors = clients.communicate(timeout=MOST)
    finally:
        for process in (*workers, clients):
            process.kill()
            process.wait()
        said.close()
        for pipe in (clients.stdout, clients.stderr):
            if pipe is not None:
                pipe.close()
    assert clients.returncode == 0, errors[-3000:]
    lines = output.splitlines()
    assert len(lines) == RUNS, errors[-3000:]
    ends = Counter(map(check, lines))
    assert sum(done.values()) >= 3, done
    assert ends["completed"], ends
    assert ends["owner_lost"], ends
    words = (tmp_path / "workers").read_text()
    assert "Traceback" not in words, words[-3000:]
