"""``python -m tests.logs.chaos --events 500000 --seed 7``: one run by hand."""

from __future__ import annotations

import argparse
import math
import random
import resource

import trio

from .disguise import PLANTED
from .plan import FAULTS, Plan
from .run import run_plan


def main() -> None:
    """Read the arguments, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.logs.chaos")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--url", default=Plan.url, help="of the log; {folder} is an empty folder")
    parser.add_argument("--breaks", type=int, default=Plan.breaks, help="how many faults happen")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which ones, with commas")
    parser.add_argument("--clients", type=int, default=Plan.clients)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--publishers", type=int, default=Plan.publishers)
    parser.add_argument("--pace", type=float, default=Plan.pace, help="events a second, at most")
    parser.add_argument("--batch", type=int, default=Plan.batch, help="events at once, at most")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of publishing, at most")
    parser.add_argument("--disk", type=int, default=Plan.disk >> 20, help="MiB of the log's disk")
    parser.add_argument("--releases", default="1", help="versions of the envelope, with commas")
    parser.add_argument("--planted", default="", choices=("", *PLANTED))
    parser.add_argument("--verbose", action="store_true", help="say what is done")
    given = parser.parse_args()
    plan = Plan(
        seed=given.seed,
        events=given.events,
        url=given.url,
        faults=tuple(filter(None, given.faults.split(","))),
        breaks=given.breaks,
        workers=given.workers,
        publishers=given.publishers,
        clients=given.clients,
        pace=given.pace,
        batch=given.batch,
        seconds=given.seconds,
        disk=given.disk << 20,
        releases=tuple(int(one) for one in given.releases.split(",")),
        planted=given.planted,
        verbose=given.verbose,
    )
    print(f"seed {plan.seed} ...", flush=True)
    print(trio.run(run_plan, plan))
    if plan.verbose:
        for who, whose in (("driver", resource.RUSAGE_SELF), ("others", resource.RUSAGE_CHILDREN)):
            used = resource.getrusage(whose)
            print(f"{who}: {used.ru_utime:.1f} s of user, {used.ru_stime:.1f} s of system time")


if __name__ == "__main__":
    main()
