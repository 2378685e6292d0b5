"""A process that appends to a log under limits, and prints what it was told, a line each.

Arguments: the file, the user to become (0 for the same), the most bytes of a file (0 for any).
"""

import logging
import os
import resource
import sys

import trio

from flowstream import Replay
from flowstream.abc import LogEntry
from flowstream.logs import LogUnavailableError, SQLiteLog, open_log


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


async def main(path: str, bound: int) -> None:
    """Append until something is wrong; with a bound, lift it then, and append again."""
    keep = Replay(items=10**6, bytes=1 << 40)
    try:
        async with open_log(SQLiteLog(path, patience=0.2)) as log:
            for number in range(1000 if bound else 1):
                try:
                    await log.append(
                        "news", [LogEntry(bytes(5000))], keep=keep, token=f"{os.getpid()} {number}"
                    )
                except LogUnavailableError as error:
                    say(f"{type(error).__name__} {error.maybe}: {error}")
                    head = (await log.heads(["news"]))["news"]
                    say(f"{head.number == number}")
                    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                    await log.append("news", [LogEntry(b"x")], keep=keep, token="again")
                    break
            say("appended")
    except LogUnavailableError as error:
        say(f"{type(error).__name__} {error.maybe}: {error}")


logging.basicConfig(stream=sys.stdout, level=logging.WARNING)
name, user, bound = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
if bound:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
trio.run(main, name, bound)
