"""Run h2spec against the server: over TLS, and in the clear.

h2spec is a program in Go that no package of Python or Debian brings. Where there is Go:
``go install github.com/summerwind/h2spec/cmd/h2spec@latest``. Then

    .venv/bin/python tests/conformance/h2spec.py [the program]

ends with 0 if every case of its strict kind passes, but for one: in the clear what is no HTTP/2 is
answered as a bad request of HTTP/1.1, which h2spec can't read. `tests/server/_h2_probes.py` has the
same cases without it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import trustme

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello world"})
"""
BAD_PREFACE = "Sends invalid connection preface"


def serve(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server; return it and its port."""
    command = [sys.executable, "-c", "from flowstream.cli import main; main()", "serve", "app"]
    server = subprocess.Popen(
        [*command, "-b", "127.0.0.1:0", *options], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"Running on \S+:(\d+)", line):
            return server, found[1]
    raise SystemExit("the server does not start")


def failures(program: str, port: str, folder: Path, *options: str) -> list[str]:
    """Run all cases; return those that have failed."""
    report = folder / "report.xml"
    command = [program, "-h", "127.0.0.1", "-p", port, "--strict", "-j", str(report), *options]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        case.get("classname", "")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    print(f"{len(cases)} cases, {len(failed)} failed: {' '.join([*command[1:5], *options])}")
    return failed


def main() -> int:
    """Run it in both ways."""
    program = sys.argv[1] if len(sys.argv) > 1 else shutil.which("h2spec")
    if program is None:
        print("h2spec is not on PATH: see the head of this file", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "app.py").write_text(APP)
        issued = trustme.CA().issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
        both = ("--certfile", "both.pem", "--keyfile", "both.pem")
        wrong: list[str] = []
        for served, asked, expected in ((both, ("-t", "-k"), 0), (("--h2c",), (), 1)):
            server, port = serve(folder, *served)
            try:
                failed = failures(program, port, folder, *asked)
            finally:
                server.terminate()
                server.wait(20)
            beyond = failed if not expected else [one for one in failed if one != BAD_PREFACE]
            wrong += beyond
    for one in wrong:
        print(f"failed: {one}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
