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

pytestmark = pytest.mark.chaos


SEED = int(os.environ.get("CHAOS_SEED", "13"))


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
