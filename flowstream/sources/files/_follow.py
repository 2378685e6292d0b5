"""Following a file: send what others append to it, like ``tail -F``.

::

    @app.get("/log")
    async def log():
        return sse(follow("/var/log/app.log"))

Trio can't tell when a file grows. So a worker thread looks several times a second. A look costs
about a fifth of a millisecond, and a slow disk delays no other stream. Each client has its own
reader. A reader that waits for room reads nothing, but still checks whether another file has taken
the place of this one.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os

import trio

from flowstream._errors import NotFoundError, PublicError
from flowstream._event import Event
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_positive
from flowstream.sources._nurseries import run_with_tasks
from flowstream.sources._resumable import Resumable
from flowstream.sources._source import Source
from flowstream.sources.files._file_position import LineCounter
from flowstream.sources.files._lines import MAX_LINE, LineSplitter, check_lines, text_of
from flowstream.sources.files._regular_file import Path, open_regular
from flowstream.sources.files._tail import Piece, Tail
from flowstream.sources.threads._pools import pools

__all__ = ["follow"]

logger: logging.Logger = logging.getLogger("flowstream")


class Follow(Resumable):
    """A file that is followed; made by `follow`."""

    def __init__(
        self,
        path: Path,
        *,
        last: int | None,
        lines: bool,
        encoding: str,
        max_line: int,
        replay: int,
        poll: float,
    ) -> None:
        self._path = path
        self._last = last
        self._lines = lines
        self._encoding = encoding
        self._max_line = max_line
        self._replay = replay
        self._poll = poll
        self._after: str | None = None

    def resumed(self, after: str | None) -> Source:
        """Return the source for one client."""
        resumed = copy.copy(self)
        resumed._after = after
        return resumed

    async def run(self, out: Outlet) -> None:
        """Send the file, and what is appended to it. Ends only when cancelled.

        Raises:
            PublicError: ``forbidden``: the file, or the one in its place, may not be read.
            OSError: the file system failed.
        """
        tail = Tail(self._path, last=self._last, after=self._after, replay=self._replay)
        turn = trio.Lock()  # a client uses one thread at a time

        async def send_all(nursery: trio.Nursery) -> None:
            nursery.start_soon(self._hold_on, tail, turn)
            await self._send_all(tail, turn, out)

        try:
            await run_with_tasks(send_all)
        finally:
            tail.close()

    async def _hold_on(self, tail: Tail, turn: trio.Lock) -> None:
        """Find new files, however long the client takes to read those before."""
        while True:
            looks = tail.looks
            await trio.sleep(1.5 * self._poll)
            if tail.looks != looks or turn.locked():
                continue  # the reading task does not wait for the client
            # The reading task will meet the same error.
            with contextlib.suppress(OSError, PublicError):
                async with turn:
                    await pools().files.run(tail.find)

    async def _send_all(self, tail: Tail, turn: trio.Lock, out: Outlet) -> None:
        sender = _Lines(out, self._encoding, self._max_line, self._after) if self._lines else None
        while True:
            async with turn:
                piece = await pools().files.run(tail.look)
            if sender is not None:
                await sender.send(piece)
            else:
                if piece.lost:
                    logger.warning("%s was written anew: its end is lost", os.fspath(self._path))
                if piece.data:
                    await out.send(piece.data)
            if not piece.more:
                await trio.sleep(self._poll)


class _Lines:
    """Sends pieces of a file as lines, each with its place."""

    def __init__(self, out: Outlet, encoding: str, max_line: int, after: str | None) -> None:
        self._out = out
        self._encoding = encoding
        self._splitter = LineSplitter(max_line)
        self._cursor = LineCounter(0, 0, b"")
        self._seen = after  # the last id that the client saw

    async def send(self, piece: Piece) -> None:
        """Send the lines that are complete now."""
        if piece.begins is not None:
            await self._put(self._splitter.flush())  # nothing more will be added to it
            self._cursor = piece.begins
            if piece.lost:
                # With an id, unlike flowstream's own gaps: no replay has the missing part.
                id = self._cursor.pass_over(b"")
                body = {"missed": None, "after": self._seen, "before": None}
                await self._out.send(Event(body, id=id, type="gap", essential=True))
                self._seen = id
        if piece.data:
            await self._put(self._splitter.feed(piece.data))

    async def _put(self, lines: list[bytes]) -> None:
        put, pass_over, encoding = self._out._put, self._cursor.pass_over, self._encoding
        for line in lines:
            self._seen = id = pass_over(line)
            wait = put(Event(text_of(line, encoding), id=id))
            if wait is not None:
                await wait


def follow(
    path: Path,
    *,
    last: int | None = 10,
    lines: bool = True,
    encoding: str = "utf-8",
    max_line: int = MAX_LINE,
    replay: int = 1024 * 1024,
    poll: float = 0.2,
    missing_ok: bool = True,
) -> Source:
    """Return a file as a source: its last lines, then each line that is appended.

    It never ends by itself. If the file is missing or vanishes, it waits for the file. If the
    file is renamed and another takes its place (as `logrotate` does), it reads the old one to
    its end, and as long as the new one is empty; then it reads the new one from its beginning.
    No line is lost or sent twice, unless a writer goes on in the old file after another has begun
    in the new one. (If that happens twice within `poll` seconds, it finds the file in between by
    its name: the old name with a number or a date after it.) If the file is emptied
    (``copytruncate``), it reads again from the beginning. Lines written between the last look
    and the emptying may be lost, so it sends a gap.

    Each line is an event. Its id is the place after the line. A client that comes back with an id
    goes on there, if the file is still the same. Otherwise it gets an event ``gap`` and the file
    that is there now: all of it, if that is not longer than `replay`, or its last lines.

    Args:
        path: the file, or where it will be.
        last: lines to begin with for a new client; None for all.
        lines: whether an item is a line: a `str` without its line break. Otherwise items are
            bytes, as they come, for `raw`. `raw` can't announce a gap; only the log has it.
        encoding: of the text. Bytes that it can't read become U+FFFD. Lines must end with the
            byte 10.
        max_line: most bytes of a line that are held until the line is complete. A longer line
            comes in pieces of that size.
        replay: how many bytes behind a client that comes back may be, and how far back to look
            for the last lines.
        poll: seconds between two looks at a file to which nothing is appended.
        missing_ok: whether it may be missing now.

    Raises:
        NotFoundError: it is a directory or a device, or missing and that is not ok. 404.
        PublicError: it may not be read. 403.
        OSError: the file system failed.
        TypeError, ValueError, LookupError: an argument is not what is said above.
    """
    check_lines(max_line, encoding)
    check_positive("poll", poll, unit="seconds")
    for name, value in (("last", last), ("replay", replay)):
        if (value is None and name == "replay") or not isinstance(value, int | None):
            raise TypeError(f"{name} must be an int, not {value!r}")
        if value is not None and value < 0:
            raise ValueError(f"{name} must be 0 or more, not {value}")
    try:
        os.close(open_regular(path)[0])
    except NotFoundError as error:
        # A path that is no file, or that is impossible, will never become a file.
        if not (missing_ok and isinstance(error.__cause__, FileNotFoundError)):
            raise
        # The path may also be wrong. Then the client would see nothing for ever.
        logger.warning("there is no file %s yet: it is waited for", os.fspath(path))
    return Follow(
        path,
        last=last,
        lines=lines,
        encoding=encoding,
        max_line=max_line,
        replay=replay,
        poll=poll,
    )
