"""The chaos ledger: publishers, workers and clients, while all of it is broken on purpose.

Each run prints its seed, which ``CHAOS_SEED`` sets. The choices follow from it; the order in which
processes run does not.
"""

from __future__ import annotations

import os
import sys

import pytest
from chaos.disguise import PLANTED
from chaos.plan import FAULTS, Plan
from chaos.run import Report, run_plan
from chaos.truth import LedgerError
from real_servers.programs import MissingProgramError, key_value_program, missing

pytestmark = pytest.mark.chaos


SEED = int(os.environ.get("CHAOS_SEED", "13"))


def needs_server(log: str) -> None:
    """Skip the test where this machine has no such server; fail it where CI is set."""
    if log == "postgres":
        return  # there is that of the wheel
    try:
        key_value_program(log)
    except MissingProgramError as error:
        missing(str(error))


async def run_and_tell(plan: Plan) -> Report:
    """Run a plan, and print its seed first, and its report."""
    sys.stdout.write(f"seed {plan.seed}\n")
    report = await run_plan(plan)
    sys.stdout.write(f"{report}\n")
    return report


@pytest.mark.timeout(900)
async def test_nothing_is_lost_in_silence_whatever_breaks() -> None:
    """20,000 events through every fault: each client accounts for each of them."""
    plan = Plan(seed=SEED, events=20_000)
    report = await run_and_tell(plan)
    counts = report.counts
    assert counts["acknowledged"] > 17_000
    assert counts["deliveries"] > 60_000
    assert counts["gaps"] > 0
    for what in ("kills", "freezes", "trims", "dates set", "quotas", "restarts", "reboots"):
        assert counts[what] > 0, what
    assert counts["full disks"] + counts["quotas"] >= 2
    assert counts["tracebacks"] == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("log", ["valkey", "redis", "postgres"])
async def test_nothing_is_lost_in_silence_whatever_breaks_a_broker(log: str) -> None:
    """20,000 events, with the broker broken in each way: an end of it may be lost, and is told."""
    needs_server(log)
    faults = tuple(name for name in FAULTS[log] if (log, name) not in _BY_HAND)
    report = await run_and_tell(Plan.over(log, seed=SEED, events=20_000, faults=faults))
    counts = report.counts
    assert counts["acknowledged"] > 17_000
    assert counts["deliveries"] > 60_000
    assert counts["gaps"] > 0
    # One is at work at a time: the last ones may come too late on a busy machine.
    assert sum(counts[what] > 0 for what in _BROKEN) >= 4, counts
    assert counts["tracebacks"] == 0


# Run from the command line. Two Postgres servers that take writes split the clients, too: one that
# goes to the other server and back is told twice that its place is lost, and may then get events of
# the newer epoch again.
_BY_HAND = {("postgres", "split the brain")}

_BROKEN = (
    "broker kills",
    "broker freezes",
    "lost tails",
    "tails lost unseen",
    "flushes",
    "cut sessions",
    "refused writes",
    "failovers in step",
    "failovers that lose",
    "split brains",
)


@pytest.mark.timeout(300)
async def test_a_log_that_wrongly_trusts_its_broker_is_found_out() -> None:
    """The broker loses its end, and the log was told that it never does: ids are given twice.

    Nobody reads: a reader may have seen more than the broker has, and prove the promise wrong.
    """
    plan = Plan.over(
        "valkey",
        SEED,
        6000,
        faults=("lose the tail",),
        breaks=3,
        pace=1000.0,
        workers=1,
        clients=0,
        query="?never_rolls_back=true",
    )
    with pytest.raises(LedgerError, match="one id for two events"):
        await run_and_tell(plan)


@pytest.mark.parametrize("log", ["valkey", "redis", "postgres"])
async def test_over_a_broker_that_is_well_nothing_is_lost(log: str) -> None:
    """Everything is acknowledged and seen, and a client that keeps up misses nothing."""
    needs_server(log)
    report = await run_and_tell(Plan.over(log, SEED, 2000, faults=(), pace=3000.0))
    assert report.counts["tracebacks"] == 0
    assert report.counts["seen"] == report.counts["sent"]


async def test_clients_that_keep_up_see_no_gap_while_nothing_breaks() -> None:
    """Without faults everything is acknowledged, and a client that keeps up misses nothing."""
    report = await run_and_tell(Plan(seed=SEED, events=2000, faults=()))
    assert report.counts["tracebacks"] == 0
    assert report.counts["seen"] == report.counts["sent"]


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_fault_is_found(planted: str) -> None:
    """A log that loses, or gives one id to two events, and a worker that does, are found out."""
    plan = Plan(seed=SEED, events=4000, faults=(), clients=12, planted=planted)
    with pytest.raises(LedgerError) as found:
        await run_and_tell(plan)
    assert _TELLING[planted] in str(found.value)


_TELLING = {
    "acknowledge what was not appended": "one id for two events",
    "another body": " for ",
    "swallow": "was told of 0 missed",
    "twice": "twice, or out of order",
}


async def test_two_releases_share_a_log_during_a_rolling_deploy() -> None:
    """Workers and publishers of this release and the next read each other's events, both ways."""
    faults = ("restart a worker", "hand over", "kill a publisher")
    plan = Plan(seed=SEED, events=5000, faults=faults, breaks=6, releases=(1, 2))
    report = await run_and_tell(plan)
    assert min(report.versions.get("1", 0), report.versions.get("2", 0)) > 0, report.versions
    assert report.counts["tracebacks"] == 0


def test_each_kind_of_fault_happens() -> None:
    """A run of the usual length has each fault at least once."""
    assert Plan.breaks >= len(FAULTS["sqlite"])
    for log, faults in FAULTS.items():
        assert Plan.over(log, seed=0, events=1).breaks >= len(faults)
