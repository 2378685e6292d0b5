"""``python -m tests.logs.chaos --events 500000 --seed 7``: one run by hand."""

from __future__ import annotations

import argparse
import math
import random
import resource
import sys
from pathlib import Path

import trio

from .disguise import PLANTED
from .plan import FAULTS, Plan
from .run import run_plan


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(one) for one in text.split(","))


def main() -> None:
    """Read the arguments, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.logs.chaos")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--log", default="sqlite", choices=tuple(FAULTS))
    parser.add_argument("--query", default="", help="of the log's URL, such as ?never_rolls_back=1")
    parser.add_argument("--breaks", type=int, help="how many faults happen")
    parser.add_argument("--faults", type=_words, help="which ones, with commas")
    parser.add_argument("--clients", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--publishers", type=int)
    parser.add_argument("--pace", type=float, help="events a second, at most")
    parser.add_argument("--batch", type=int, default=Plan.batch, help="events at once, at most")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of publishing, at most")
    parser.add_argument("--disk", type=lambda size: int(size) << 20, help="MiB of the log's disk")
    parser.add_argument("--releases", type=_numbers, help="versions of the envelope, with commas")
    parser.add_argument("--freeze", type=float, help="seconds of a broker, at most")
    parser.add_argument("--planted", default="", choices=("", *PLANTED))
    parser.add_argument("--verbose", action="store_true", help="say what is done")
    given = vars(parser.parse_args())
    plan = Plan.over(
        given.pop("log"),
        given.pop("seed"),
        given.pop("events"),
        **{name: value for name, value in given.items() if value is not None},
    )
    sys.path.append(str(Path(__file__).parents[2]))  # where the tests find `real_servers`
    print(f"seed {plan.seed} ...", flush=True)
    print(trio.run(run_plan, plan))
    if plan.verbose:
        for who, whose in (("driver", resource.RUSAGE_SELF), ("others", resource.RUSAGE_CHILDREN)):
            used = resource.getrusage(whose)
            print(f"{who}: {used.ru_utime:.1f} s of user, {used.ru_stime:.1f} s of system time")


if __name__ == "__main__":
    main()
