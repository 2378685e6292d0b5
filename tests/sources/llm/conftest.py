"""A model's server; and the readers of front ends, run by Node: the `ai` package's and AG-UI's."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
import trio
from _upstream import open_upstream


@pytest.fixture
async def upstream():
    """A server that speaks as those of the models do."""
    async with open_upstream() as running:
        yield running


PACKAGES = Path(__file__).parent / "front_ends"


class Reader:
    """A Node process with the front ends' packages; it lives as long as the tests do.

    Args:
        node, npm: the paths of the two programs.
        cache: a directory that survives, so that the packages are fetched once.
    """

    def __init__(self, node, npm, cache):
        self._lock = threading.Lock()
        home = self._installed(npm, cache)
        shutil.copy(PACKAGES / "reader.mjs", home)
        self._process = subprocess.Popen(
            [node, "reader.mjs"],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _installed(self, npm, cache):
        lock = (PACKAGES / "package-lock.json").read_bytes()
        home = cache / hashlib.sha256(lock).hexdigest()[:16]
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=cache) as directory:
                fresh = Path(directory) / "packages"
                fresh.mkdir()
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(PACKAGES / name, fresh)
                done = subprocess.run(
                    [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                    cwd=fresh,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                with contextlib.suppress(OSError):  # another run of the tests was faster
                    fresh.rename(home)
        return home

    def run(self, script, **args):
        """Return what the body of an async function returns, with `args` in scope."""
        with self._lock:
            print(
                json.dumps({"script": script, "args": args}), file=self._process.stdin, flush=True
            )
            answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    async def arun(self, script, **args):
        """Do the same in a thread, while the test serves."""
        return await trio.to_thread.run_sync(lambda: self.run(script, **args))

    def end(self):
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)


@pytest.fixture(scope="session")
def readers():
    """Hold the one process, once it runs."""
    running = []
    yield running
    for reader in running:
        reader.end()


@pytest.fixture
def reader(program, readers, downloads):
    """Read streams with the front ends' own packages, in Node: see `Reader`."""
    if not readers:
        cache = downloads("front-ends")
        readers.append(Reader(program("node", "nodejs"), program("npm"), cache))
    return readers[0]
