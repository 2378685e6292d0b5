"""Run Autobahn's WebSocket test suite against our server, and print its verdicts.

    .venv/bin/python tests/conformance/autobahn.py

It is no part of the tests: it takes minutes, and Autobahn's client (``wstest``) runs on Python 2.7
alone. The script installs the client from PyPI into a folder of its own, once, starts our server
with an app that echoes, has the client run its cases over HTTP/1.1, with permessage-deflate where a
case offers it, and ends with 1 if one of them failed. No client of this kind speaks RFC 8441:
``tests/server/websocket/test_websocket_carriers.py`` compares HTTP/2 with HTTP/1.1.

The sections: 1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragments, 6 UTF-8, 7 the close,
9 limits (16 MiB at most), 10 pieces, 12 and 13 compression. A verdict other than OK that is no
failure: NON-STRICT (allowed, but later than it could be), INFORMATIONAL (RFC 6455 leaves it open),
UNIMPLEMENTED (an offer of compression that we decline, as RFC 7692 allows).

On 2026-11-30 with autobahntestsuite 25.10.1 none failed. Sections 1 to 7 and 10, 247 cases: 234 OK,
10 NON-STRICT, 3 INFORMATIONAL. Sections 12 and 13, 216 cases: 216 OK; they take an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENT = "autobahntestsuite==25.10.1"
SECTIONS = ["1", "2", "3", "4", "5", "6", "7", "10", "12", "13"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "flowstream-autobahn"
AGENT = "flowstream"
FINE = ["OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"]  # any other verdict is a failure

SERVE = "from flowstream.cli import main; main()"
RUN = "from autobahntestsuite.wstest import run; run()"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Send back each message as it came."""
    if scope["type"] != "websocket":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def find_python2() -> str:
    """Return a Python 2.7 that runs and has pip.

    Raises:
        SystemExit: there is none.
    """
    names = ("python2.7", "python2", "pypy", "pypy2")
    found = [path for name in names if (path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found += map(str, sorted(pyenv.glob("versions/*2.7*/bin/python2.7")))
    for path in found:
        asked = subprocess.run(
            [path, "-c", "import pip, ssl, zlib"], check=False, stderr=subprocess.DEVNULL
        )
        if asked.returncode == 0:
            return path
    raise SystemExit("autobahn.py needs a Python 2.7 with pip: say where with --python2 PATH")


def install_client(python2: str, folder: Path) -> dict[str, str]:
    """Install Autobahn's client into `folder`, once; return the environment that it runs in."""
    environment = {**os.environ, "PYTHONUSERBASE": str(folder)}
    environment.pop("PYTHONPATH", None)
    done = folder / f"{CLIENT}.installed"
    if not done.exists():
        print(f"installing {CLIENT} into {folder}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        pip = [python2, "-m", "pip", "install", "-qqq", "--user", CLIENT]
        subprocess.run(pip, env=environment, check=True)
        done.touch()
    return environment


@contextmanager
def serving(log: Path) -> Iterator[str]:
    """Run our server with `app`, and write what it logs to `log`; give its URL."""
    here = Path(__file__)
    command = [sys.executable, "-c", SERVE, "serve", f"{here.stem}:app", "--bind", "127.0.0.1:0"]
    with log.open("w") as written:
        process = subprocess.Popen(command, cwd=here.parent, stderr=written)
    try:
        while not (found := re.search(r"Running on http://(\S+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the server has not started:\n{log.read_text()}")
            time.sleep(0.05)
        yield f"ws://{found[1]}"
    finally:
        process.terminate()
        process.wait()


def run_cases(
    python2: str, environment: dict[str, str], url: str, sections: list[str], reports: Path
) -> dict[str, dict[str, Any]]:
    """Have the client run the cases; return its report, by case."""
    specification = {
        "outdir": str(reports),
        "servers": [{"agent": AGENT, "url": url, "options": {"version": 18}}],
        "cases": [one if "*" in one else f"{one}.*" for one in sections],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = reports / "fuzzingclient.json"
    path.write_text(json.dumps(specification))
    command = [python2, "-c", RUN, "--mode", "fuzzingclient", "--spec", str(path)]
    with (reports / "log.txt").open("w") as log:
        subprocess.run(
            command, env=environment, cwd=reports, check=True, stdout=log, stderr=subprocess.STDOUT
        )
    found: dict[str, dict[str, Any]] = json.loads((reports / "index.json").read_text())[AGENT]
    return found


def verdict(case: dict[str, Any]) -> str:
    """Return the worse verdict of two: on what the server did, and on how it closed."""
    both = [case["behavior"], case["behaviorClose"]]
    return max(both, key=lambda word: FINE.index(word) if word in FINE else len(FINE))


def table(report: dict[str, dict[str, Any]]) -> str:
    """Return how often there was which verdict, by section."""
    found: dict[str, Counter[str]] = {}
    for name, case in report.items():
        found.setdefault(name.split(".")[0], Counter())[verdict(case)] += 1
    others = sorted({word for counter in found.values() for word in counter} - set(FINE))
    words = [*FINE, *others]
    lines = ["section  cases  " + "  ".join(words)]
    for section in sorted(found, key=int):
        counts = "  ".join(f"{found[section][word]:>{len(word)}}" for word in words)
        lines.append(f"{section:>7}  {found[section].total():>5}  {counts}")
    return "\n".join(lines)


def main() -> int:
    """Run it; return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sections", nargs="+", default=SECTIONS, help="such as: 1 7 9.1 12.*.1")
    parser.add_argument("--python2", help="a Python 2.7 with pip; looked for if not given")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"client and reports ({CACHE})")
    parser.add_argument("--url", help="of a server that runs already and echoes")
    arguments = parser.parse_args()
    python2 = arguments.python2 or find_python2()
    environment = install_client(python2, arguments.cache / "client")
    reports = arguments.cache / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    server_log = reports / "server.log"
    if arguments.url:
        report = run_cases(python2, environment, arguments.url, arguments.sections, reports)
    else:
        with serving(server_log) as url:
            report = run_cases(python2, environment, url, arguments.sections, reports)
    print(table(report))
    failed = {name: case for name, case in report.items() if verdict(case) not in FINE}
    for name, case in failed.items():
        print(f"{name}: {verdict(case)}: {reports / case['reportfile']}")
    print(f"{len(report)} cases, {len(failed)} failed; the whole report: {reports / 'index.html'}")
    return 1 if failed or not report else 0


if __name__ == "__main__":
    sys.exit(main())
