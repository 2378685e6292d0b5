"""A process that runs pytest again and again, each time in a fork of itself.

It has imported what the tests use, but not the package. Those imports are most of what a short run
of pytest takes. Each line that it reads is a run, as JSON: ``arguments``, ``environment``, the
``seconds`` that it may take, and the file for its ``output``. It answers with the exit status, or
with ``null`` if the run was ended because it took too long.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import sys
from typing import Any

import pytest

MEMORY = 4 << 30  # bytes of address space: a loop without an end may fill a list

_USED = [
    "anyio.pytest_plugin",
    "fastapi",
    "fastapi.testclient",
    "h11",
    "h2.connection",
    "httpx2",
    "hypercorn.config",
    "hypercorn.trio",
    "hypothesis",
    "hypothesis.strategies",
    "msgspec",
    "pytest_cov.plugin",
    "pytest_timeout",
    "pytest_trio.plugin",
    "quart",
    "quart_trio",
    "sqlite3",
    "starlette.applications",
    "starlette.responses",
    "starlette.routing",
    "trio.testing",
    "wsproto",
    "xdist.plugin",
]


def run(order: dict[str, Any]) -> int | None:
    """Run pytest in a fork; end it, and what it has started, when its time is over."""
    pid = os.fork()
    if not pid:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(order["environment"])
        status = 3
        try:
            status = int(pytest.main(order["arguments"]))
            sys.stdout.flush()
        finally:
            os._exit(status)
    ended = os.pidfd_open(pid)
    in_time = bool(select.select([ended], [], [], order["seconds"])[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.close(ended)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if in_time else None


def main() -> None:
    """Take orders until there are no more."""
    for name in _USED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "flowstream" not in sys.modules
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
