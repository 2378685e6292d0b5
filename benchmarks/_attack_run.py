"""All attacks by name, and the process that makes one of them from many connections at once.

``python _attack_run.py NAME HTTP_PORT HTTPS_PORT`` prints ``ready`` and waits for lines: ``go``
begins the attack, and ``begun`` is printed when there is a connection; ``stop`` ends it, and a
`Toll` is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import _attackers_application
import _attackers_http1
import _attackers_http2
import _attackers_websocket
import trio
from _attackers import Aim, Attack, Toll

PATIENCE = 2.0
"""Seconds until the attack is said to have begun although nobody could connect."""

_KINDS = (_attackers_http1, _attackers_http2, _attackers_websocket, _attackers_application)
ATTACKS = {
    one.name: one for kind in _KINDS for one in vars(kind).values() if isinstance(one, Attack)
}


async def again_and_again(one: Attack, aim: Aim) -> None:
    """Attack on one connection after the other."""
    while True:
        try:
            await one.run(aim)
        except* (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            aim.toll.cut += 1
        finally:
            await aim.close()
        await trio.sleep(0.001)


async def obey(one: Attack, http: int, https: int) -> None:
    """Attack from ``go`` to ``stop``, as often as it is said."""
    print("ready", flush=True)
    while (await line()) == "go":
        toll = Toll()
        async with trio.open_nursery() as nursery:
            for _ in range(one.connections):
                nursery.start_soon(again_and_again, one, Aim(http, https, toll))
            with trio.move_on_after(PATIENCE):  # the attack before may have ended the server
                while not toll.begun:  # noqa: ASYNC110  # any of them may be the first
                    await trio.sleep(0.001)
            print("begun", flush=True)
            await line()
            nursery.cancel_scope.cancel()
        print(json.dumps(asdict(toll)), flush=True)


async def line() -> str:
    """Return the next line of stdin; an empty one at its end."""
    said = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return said.strip()


if __name__ == "__main__":
    # The other clients share this core, and their latency is to be the server's.
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    trio.run(obey, ATTACKS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]))
