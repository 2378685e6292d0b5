"""Make small mistakes in the package and see whether the tests notice.

::

    .venv/bin/python tests/mutants/run.py --seed 1 --count 200 --jobs 2
    .venv/bin/python tests/mutants/run.py --part logs --seed 1 --count 200 --jobs 2
    .venv/bin/python tests/mutants/run.py --part valkey --seed 1 --count 110 --jobs 1
    .venv/bin/python tests/mutants/run.py --part postgres --seed 1 --count 110 --jobs 1

It copies the package and the tests into temporary folders and runs the tests once to learn which
test reaches which line. Then it makes one mistake at a time (see mutations.py) and runs the tests
that reach its line, those first that reach most of the module per second. A mistake is *seen* if a
test fails, and again when it runs alone; if nothing can be imported any more; or if a test hangs.

What survives is either no mistake at all or lacks a test. survivors.toml lists the first, each with
the reason why it is harmless. The exit status is 1 if another one survives, or if less than 90 % of
those that change behaviour are seen; 2 if the tests fail without any mistake.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from typing import Any

from emptied_postgres import EmptiedPostgres
from mutations import Mutation, chosen, mutated, mutations
from text_mutations import text_mutations

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
SURVIVORS = HERE / "survivors.toml"


@dataclass(frozen=True, slots=True)
class Part:
    """Modules that are measured together, and the tests that may see their mistakes.

    Args:
        targets: the modules, as patterns from the package's folder; one may find nothing.
        tests: files of tests, as patterns: without those that drive browsers, databases or servers
            in processes of their own.
        left_out: of these, files with many conversations drawn at random: what they see is seen in
            the end, but a minute later.
        text_tests: files of tests that reach the targets that are not Python, whose lines nobody
            counts: in the order in which they run.
        chaos: whether tests of faults, which CI runs apart from the others, may see mistakes, too.
        postgres: whether the tests need a Postgres: one is started for all runs. A Valkey starts
            faster than an old one is emptied, so each run has its own, which is killed with it.
    """

    targets: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    text_tests: tuple[str, ...] = ()
    chaos: bool = False
    postgres: bool = False


PARTS = {
    "streams": Part(
        targets=(
            "buffer/*.py",
            "topics/*.py",
            "asgi/_stream.py",
            "asgi/_ending.py",
            "asgi/_last_word.py",
            "asgi/_watch.py",
        ),
        tests=(
            "tests/buffer/test_*.py",
            "tests/tasks/test_timers.py",
            "tests/test_policies.py",
            "tests/testing/test_*.py",
            "tests/asgi/test_*.py",
            "tests/topics/test_*.py",
            "tests/runs/test_runs.py",
            "tests/runs/test_runs_edges.py",
            "tests/starlette/test_*.py",
            "tests/server/log/test_access_log.py",
            "tests/server/test_direct_writes_exact.py",
            "tests/server/test_one_write.py",
            "tests/server/test_stream_carrier.py",
        ),
        left_out=("tests/topics/test_ledger.py", "tests/topics/test_ledger_sockets.py"),
    ),
    # The log in memory, the one on SQLite, and what all logs share.
    "logs": Part(
        targets=("logs/*.py",),
        tests=("tests/logs/test_*.py", "tests/commands/test_log_commands.py"),
        left_out=("tests/logs/test_chaos.py",),
    ),
    "valkey": Part(
        targets=("logs/valkey/*.py", "logs/valkey/lua/*.lua"),
        tests=(
            "tests/logs/valkey/test_*.py",
            "tests/logs/test_url_secrets.py",
            "tests/commands/test_valkey_log_commands.py",
        ),
        text_tests=(
            "tests/logs/valkey/test_valkey_scripts.py",
            "tests/logs/valkey/test_valkey_contracts.py",
            "tests/logs/valkey/test_valkey_faults.py",
            "tests/commands/test_valkey_log_commands.py",
        ),
        chaos=True,
    ),
    "postgres": Part(
        targets=("logs/postgres/*.py", "logs/postgres/sql/*.sql"),
        tests=(
            "tests/logs/postgres/test_*.py",
            "tests/logs/test_url_secrets.py",
            "tests/commands/test_postgres_log_commands.py",
        ),
        text_tests=(
            "tests/logs/postgres/test_postgres_append.py",
            "tests/logs/postgres/test_postgres_leases.py",
            "tests/logs/postgres/test_postgres_epochs.py",
            "tests/logs/postgres/test_postgres_retention.py",
            "tests/logs/postgres/test_postgres_outbox.py",
            "tests/logs/postgres/test_postgres_*.py",
            "tests/logs/postgres/test_topic_outbox.py",
            "tests/commands/test_postgres_log_commands.py",
        ),
        chaos=True,
        postgres=True,
    ),
}
COPIED = ["flowstream", "tests", "docs", "examples", "benchmarks", "pyproject.toml", "README.md"]

BAR = 0.9
TEST_TIMEOUT = 20  # seconds; a test that takes as long without a mistake is left out
BUDGET = 60.0  # seconds of tests for a mistake, as they took while it was learned what they reach

PYTEST = [
    *("-q", "-x", "-n", "0", "--tb", "no", "--assert", "plain"),
    *("-p", "no:cacheprovider", "--hypothesis-seed", "1"),
]

_WITH_CHAOS = ["-m", "not upstream and not soak and not llm"]

_OURS = re.compile("PYTEST_|COV")  # meant for the pytest that may have started us

Reach = dict[str, dict[str, Any]]  # see reach.py


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mistake."""

    seen: bool
    by: str
    """The test, or why it was seen without one, or how many tests let it pass."""
    seconds: float


class Sandbox:
    """A copy of the project in which one mistake at a time is made.

    Args:
        folder: for the copy.
        project: what is copied.
        chaos: whether tests of faults run, too.
        postgres: whether its tests have a Postgres that was started before.
    """

    def __init__(
        self,
        folder: Path,
        project: Path = PROJECT,
        *,
        chaos: bool = False,
        postgres: bool = False,
    ) -> None:
        self.folder = folder
        self._marks = _WITH_CHAOS if chaos else []
        self._postgres = EmptiedPostgres() if postgres else None
        ignored = shutil.ignore_patterns("__pycache__", "node_modules", ".hypothesis")
        for name in COPIED:
            if (project / name).is_dir():
                shutil.copytree(project / name, folder / name, ignore=ignored)
            elif (project / name).exists():
                shutil.copy(project / name, folder / name)
        kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        self._warm = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")],
            cwd=folder,
            env={**kept, "PYTHONPATH": f"{folder}{os.pathsep}{HERE}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._warm:  # closes its stdin, which ends it
            pass
        if self._postgres is not None:
            self._postgres.__exit__(*exc)

    def pytest(
        self, arguments: Iterable[str], seconds: float, **environment: str
    ) -> tuple[int | None, str]:
        """Run pytest; return its exit status, None if it ran too long, and what it printed."""
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)
        if self._postgres is not None:
            environment |= self._postgres.emptied()
        output = self.folder / "output.txt"
        order = {
            "arguments": [*PYTEST, *self._marks, *arguments],
            "seconds": seconds,
            "environment": environment,
            "output": str(output),
        }
        assert self._warm.stdin is not None
        assert self._warm.stdout is not None
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        status: int | None = json.loads(self._warm.stdout.readline())
        return status, output.read_text(errors="replace")

    def learn(self, tests: list[str]) -> Reach:
        """Run files of tests without a mistake; return which lines each test reaches."""
        found = self.folder / "reach.json"
        arguments = ["-p", "reach", "--maxfail", "1000", *tests]
        status, output = self.pytest(arguments, 3600, MUTANTS_REACH=str(found))
        if status not in (0, 1) or not found.exists():
            raise SystemExit(f"the tests can't be run: {output[-2000:]}")
        reach: Reach = json.loads(found.read_text())
        return reach

    def check(self, tests: list[str]) -> None:
        """Make sure that the copy is what runs, and that it has these tests."""
        status, output = self.pytest(["--collect-only", *self._listed(tests)], 600)
        if status != 0:
            raise SystemExit(f"not all tests are there: {output[-2000:]}")

    def attempt(self, mutation: Mutation, tests: list[str], reach: Reach) -> Outcome:
        """Make a mistake, run `tests`, and mend it again."""
        if not tests:
            return Outcome(False, "no test reaches it", 0.0)
        path = self.folder / "flowstream" / mutation.file
        source = path.read_bytes()
        start = time.monotonic()
        try:
            _write(path, mutated(source, mutation))
            seen, by = self._seen(tests, reach)
        finally:
            _write(path, source)
        return Outcome(seen, by, time.monotonic() - start)

    def _seen(self, tests: list[str], reach: Reach) -> tuple[bool, str]:
        """Return whether a test fails, and which.

        It must fail again when it runs alone. Else it failed by chance, and the others decide.
        """
        tests = [*tests]
        seconds = [reach[test]["seconds"] for test in tests]
        limit = 4 * TEST_TIMEOUT + 3 * sum(seconds)
        timeout = ["--timeout", str(TEST_TIMEOUT + 3 * max(seconds))]
        while tests:
            status, output = self.pytest([*timeout, *self._listed(tests)], limit)
            if status == 0:
                break
            if status is None:
                return True, "hangs"
            failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - |$)", output, re.MULTILINE)
            if failed is None or failed[1] not in tests:
                return True, failed[1] if failed else f"exit status {status}"
            if self.pytest([*timeout, *self._listed([failed[1]])], limit)[0] != 0:
                return True, failed[1]
            tests.remove(failed[1])
        return False, f"{len(tests)} tests"

    def _listed(self, tests: list[str]) -> list[str]:
        """Return the argument that stands for tests, which may be many."""
        listed = self.folder / "tests.txt"
        listed.write_text("\n".join(tests))
        return [f"@{listed}"]


def _write(path: Path, source: bytes) -> None:
    """Write a module, and have Python compile it anew even if time and size are the same."""
    path.write_bytes(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def candidates(targets: Iterable[str], project: Path = PROJECT) -> list[Mutation]:
    """Return every mistake that can be made in the targets."""
    package = project / "flowstream"
    paths = [path for target in targets for path in sorted(package.glob(target))]
    return [
        one
        for path in paths
        for one in _mutations(path.relative_to(package).as_posix(), path.read_bytes())
    ]


def _mutations(file: str, source: bytes) -> list[Mutation]:
    return mutations(file, source) if file.endswith(".py") else text_mutations(file, source)


def reaching(
    mutation: Mutation, reach: Reach, budget: float = BUDGET, text_tests: Iterable[str] = ()
) -> list[str]:
    """Return the tests that reach a mistake: those first that reach most of its file per second.

    They take up to `budget` seconds. A line that runs when the module is imported is reached by
    all that use the module. What is not Python is reached by `text_tests`.
    """
    if not mutation.file.endswith(".py"):
        return _within(
            [
                test
                for pattern in dict.fromkeys(text_tests)
                for test in sorted(reach, key=lambda test: (reach[test]["seconds"], test))
                if fnmatch(test.split("::")[0], pattern)
            ],
            reach,
            budget,
        )
    in_module = {
        test: lines
        for test, found in reach.items()
        if test and (lines := set(found["lines"].get(mutation.file, [])))
    }
    where = set(mutation.lines)
    at_import = where & set(reach[""]["lines"].get(mutation.file, []))
    files: dict[str, list[str]] = defaultdict(list)
    for test, lines in in_module.items():
        if at_import or lines & where:
            files[test.split("::")[0]].append(test)

    def worth(tests: list[str]) -> float:
        lines: set[int] = set().union(*(in_module[test] for test in tests))
        seconds: float = sum(reach[test]["seconds"] + 0.01 for test in tests)
        return len(lines) / seconds

    ordered = sorted(files.values(), key=lambda tests: (-worth(tests), tests[0]))
    tests = [
        test
        for tests in ordered
        for test in sorted(tests, key=lambda test: (reach[test]["seconds"], test))
    ]
    return _within(tests, reach, budget)


def _within(tests: list[str], reach: Reach, budget: float) -> list[str]:
    """Return the first tests, each once, that take so many seconds together."""
    tests = list(dict.fromkeys(tests))
    spent = accumulate(reach[test]["seconds"] for test in tests)
    return [test for test, seconds in zip(tests, spent, strict=True) if seconds <= budget]


def _sandbox(part: Part, folder: Path) -> Sandbox:
    return Sandbox(folder, chaos=part.chaos, postgres=part.postgres)


def learned(part: Part, jobs: int) -> Reach:
    """Return which lines each test reaches: `jobs` processes share the files of tests."""
    paths = [path for pattern in part.tests for path in sorted(PROJECT.glob(pattern))]
    files = [path.relative_to(PROJECT).as_posix() for path in paths]
    files = [name for name in files if name not in part.left_out]
    reach: Reach = {}
    with ExitStack() as stack:
        folders = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
            for _ in range(jobs)
        ]
        boxes = [stack.enter_context(_sandbox(part, folder)) for folder in folders]
        with ThreadPoolExecutor(jobs) as pool:
            parts = [files[number::jobs] for number in range(jobs)]
            for found in pool.map(Sandbox.learn, boxes, parts):
                at_import = reach.get("", found[""])["lines"] | found[""]["lines"]
                reach |= found
                reach[""]["lines"] = at_import
    return reach


def usable(reach: Reach) -> Reach:
    """Return the tests that pass without a mistake, and fast enough."""
    return {
        test: found
        for test, found in reach.items()
        if not test or (found["passed"] and found["seconds"] < TEST_TIMEOUT)
    }


def harmless(path: Path = SURVIVORS) -> dict[str, str]:
    """Return the reason for each mistake that is none."""
    listed = tomllib.loads(path.read_text()).get("harmless", [])
    return {name: entry["reason"] for entry in listed for name in entry["mutations"]}


def diff(mutation: Mutation, project: Path = PROJECT) -> str:
    """Return the change as a diff."""
    source = (project / "flowstream" / mutation.file).read_bytes()
    name = f"flowstream/{mutation.file}"
    lines = difflib.unified_diff(
        source.decode().splitlines(),
        mutated(source, mutation).decode().splitlines(),
        name,
        name,
        n=2,
        lineterm="",
    )
    return "\n".join(lines)


def attempt_all(
    part: Part, mistakes: list[Mutation], reach: Reach, jobs: int, budget: float
) -> Iterator[tuple[Mutation, Outcome]]:
    """Try the mistakes, `jobs` at a time; yield what became of each, in their order."""
    with ExitStack() as stack:
        free: queue.Queue[Sandbox] = queue.Queue()
        for _ in range(jobs):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))
            free.put(stack.enter_context(_sandbox(part, Path(folder))))

        def attempt(mutation: Mutation) -> Outcome:
            tests = reaching(mutation, reach, budget, part.text_tests)
            sandbox = free.get()
            try:
                return sandbox.attempt(mutation, tests, reach)
            finally:
                free.put(sandbox)

        with ThreadPoolExecutor(jobs) as pool:
            yield from zip(mistakes, pool.map(attempt, mistakes), strict=True)


def report(
    outcomes: list[tuple[Mutation, Outcome]], reasons: dict[str, str], project: Path = PROJECT
) -> int:
    """Print the table and the survivors; return the exit status."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    unlisted = []
    for mutation, outcome in outcomes:
        if outcome.seen:
            table[mutation.file]["seen"] += 1
        elif mutation.name in reasons:
            table[mutation.file]["harmless"] += 1
        else:
            table[mutation.file]["survived"] += 1
            unlisted.append(mutation)
    width = max(map(len, table), default=0)
    print(f"\n{'':{width}}  seen  harmless  survived")
    totals: Counter[str] = Counter()
    for file, counts in sorted(table.items()):
        totals += counts
        print(f"{file:{width}}  {counts['seen']:4}  {counts['harmless']:8}  {counts['survived']:8}")
    changing = totals["seen"] + totals["survived"]
    share = totals["seen"] / changing if changing else 1.0
    print(f"{'all':{width}}  {totals['seen']:4}  {totals['harmless']:8}  {totals['survived']:8}")
    print(f"\n{totals['seen']} of {changing} that change behaviour are seen: {share:.1%}")
    for mutation in unlisted:
        print(f"\nsurvived, and is not listed: {mutation.name}\n{diff(mutation, project)}")
    for mutation, outcome in outcomes:
        if outcome.seen and mutation.name in reasons:
            print(f"\nlisted as harmless, and seen by {outcome.by}: {mutation.name}")
    return int(bool(unlisted) or share < BAR)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="See whether the tests notice small mistakes.")
    parser.add_argument("--part", choices=PARTS, default="streams", help="what is measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2, help="mistakes at a time")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds of tests for each")
    parser.add_argument("--only", default="", help="of the chosen, those with this in their name")
    parser.add_argument("--list", action="store_true", help="print the chosen and end")
    parser.add_argument(
        "--reach",
        type=Path,
        help="a file with what each test reaches: taken from it if it exists, else written to it",
    )
    options = parser.parse_args(arguments)
    part = PARTS[options.part]
    every = candidates(part.targets)
    mistakes = [
        one for one in chosen(every, options.seed, options.count) if options.only in one.name
    ]
    reasons = harmless()
    possible = {one.name for each in PARTS.values() for one in candidates(each.targets)}
    for name in sorted(reasons.keys() - possible):
        print(f"listed as harmless, and no longer possible: {name}")
    if options.list:
        print("\n".join(one.name for one in mistakes))
        return 0

    if options.reach is not None and options.reach.exists():
        reach: Reach = json.loads(options.reach.read_text())
    else:
        reach = learned(part, options.jobs)
        if options.reach is not None:
            options.reach.write_text(json.dumps(reach))
    for test in sorted(reach.keys() - usable(reach).keys()):
        print(f"left out, slow or failing without a mistake: {test}")
    reach = usable(reach)
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        Sandbox(Path(folder), chaos=part.chaos) as sandbox,
    ):
        sandbox.check([test for test in reach if test])
    print(f"{len(mistakes)} of {len(every)} possible mistakes, {len(reach) - 1} tests", flush=True)

    outcomes = []
    for mutation, outcome in attempt_all(part, mistakes, reach, options.jobs, options.budget):
        outcomes.append((mutation, outcome))
        known = " (harmless)" if mutation.name in reasons else ""
        what = "seen" if outcome.seen else f"SURVIVED{known}"
        took = f"{outcome.seconds:5.1f} s"
        print(f"{took}  {what:8}  {mutation.name}  [{outcome.by}]", flush=True)
    return report(outcomes, reasons)


if __name__ == "__main__":
    sys.exit(main())
