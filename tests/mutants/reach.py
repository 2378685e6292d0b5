"""A plugin of pytest that notes which lines of the package each test reaches: ``-p reach``.

It writes JSON to the file that ``MUTANTS_REACH`` names: ``{test: {"seconds": how long it took,
"passed": bool, "lines": {file: [line, ...]}}}``. Files are named from the package's folder. What
runs while modules are imported belongs to no test; it stands under the name "".
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

PACKAGE = Path.cwd() / "flowstream"

# Before pytest loads a conftest, which imports the package.
_coverage = coverage.Coverage(data_file=None, source=[str(PACKAGE)], config_file=False)
_coverage.set_option("run:core", "ctrace")  # the one that can tell tests apart
_coverage.start()

_found: dict[str, dict[str, Any]] = defaultdict(
    lambda: {"seconds": 0.0, "passed": True, "lines": defaultdict(list)}
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count what runs from here on for this test."""
    _coverage.switch_context(item.nodeid)
    start = time.perf_counter()
    try:
        return (yield)
    finally:
        _found[item.nodeid]["seconds"] = round(time.perf_counter() - start, 4)
        _coverage.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that did not pass, or was skipped."""
    if report.outcome != "passed":
        _found[report.nodeid]["passed"] = False


def pytest_sessionfinish() -> None:
    """Write what was found."""
    _coverage.stop()
    data = _coverage.get_data()
    for file in data.measured_files():
        name = Path(file).relative_to(PACKAGE).as_posix()
        for line, tests in data.contexts_by_lineno(file).items():
            for test in tests:
                _found[test]["lines"][name].append(line)
    Path(os.environ["MUTANTS_REACH"]).write_text(json.dumps(_found))
