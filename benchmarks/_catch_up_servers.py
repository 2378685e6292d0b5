"""The Python server of `catch_up.py`: ``python _catch_up_servers.py HOME``.

It listens on a free port of 127.0.0.1, prints one line of JSON
(``{"port": ..., "about": ...}``) and serves until it is killed.

* ``GET /fill?events=N&size=S&back=B`` publishes N events of S bytes, and answers with the id of the
  one before the last B.
* ``GET /events?after=ID`` streams what follows.
"""

from __future__ import annotations

import sys
from typing import Any

from _homes import HOMES
from _servers import serve_trio


class CatchUp:
    """A topic that keeps all that is published."""

    def __init__(self) -> None:
        import flowstream

        replay = flowstream.Replay(items=1_000_000, bytes=1 << 30)
        self.topic = flowstream.Topic("events", replay=replay)

    async def fill(self, given: dict[str, str]) -> dict[str, str]:
        data = "x" * (int(given["size"]) - 1) + "~"
        left = int(given["events"])
        after = ""
        while left:
            left -= 1
            id = await self.topic.publish(data)
            if left == int(given["back"]):
                after = id
        return {"after": after}

    async def events(self, given: dict[str, str]) -> Any:
        import flowstream

        return flowstream.sse(self.topic.subscribe(after=given["after"]))


if __name__ == "__main__":
    catch_up = CatchUp()
    serve_trio(*HOMES[sys.argv[1]]({"/fill": catch_up.fill, "/events": catch_up.events}))
