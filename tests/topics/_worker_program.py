"""A worker in a process of its own: it has clients, and prints what becomes of them.

Its arguments are the log's URL and how many clients it has. It reads commands from its input.
"""

import sys

import trio

from flowstream import LatestByKey, Topic, Topics, sse
from flowstream.quart import Flowstream
from flowstream.testing import collect

who = Topic("who", snapshot=LatestByKey())
rooms = Topics(lambda name: Topic(name, presence=who), subject=lambda name, user: user)


def say(*words: object) -> None:
    """Print a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def client(user: str) -> None:
    """Read a room until the stream ends, and say how it ended."""
    response = await collect(sse(await rooms.open("room", user)), timeout=600)
    say("ended", user, response.body.decode().rpartition('"reason":"')[2].partition('"')[0])


async def tell() -> None:
    """Say what the clients of the presence topic are told."""
    async with who.subscribe() as events:
        say("ready")
        async for event in events:
            if event.type in ("join", "leave"):
                say("told", event.data["subscribers"])
            elif event.type == "snapshot":  # what was told before it subscribed
                for latest in event.data:
                    say("told", latest["data"]["subscribers"])


async def main(url: str, users: list[str]) -> None:
    """Do what is commanded."""
    async with Flowstream(log=url), trio.open_nursery() as nursery:
        for user in users:
            nursery.start_soon(client, user)
        nursery.start_soon(tell)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            command, _, argument = line.strip().partition(" ")
            if command == "revoke":
                say("revoked", await rooms.revoke_subject(argument))
            elif command == "publish":
                say("published", await rooms.publish("room", argument))
            elif command == "delete":
                await rooms.delete("room")
                say("deleted")
            elif command == "total":
                say("total", rooms["room"].total_subscribers)
        nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1], sys.argv[2].split(","))
