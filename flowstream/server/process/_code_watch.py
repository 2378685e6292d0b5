"""Notice that the code of this process has changed on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import trio

from flowstream.server._hypercorn import check_for_updates, files_to_watch

# Seconds between two looks: a save is noticed before a hand is back at the browser.
_EVERY = 0.25


class CodeWatch:
    """The files of all modules that are imported, also those that are imported later.

    Args:
        since: the time, in seconds since the epoch, at which the process began to read them.
        also: other files, or directories, to watch.
    """

    def __init__(self, since: float, also: Iterable[Path] = ()) -> None:
        self._since = since
        self._files = {path: path.stat().st_mtime for path in also if path.exists()}
        self._files.update(files_to_watch())

    async def wait(self) -> None:
        """Wait until one of them has changed."""
        if self._changed_while_loading():
            return
        # There is no event: inotify would be a dependency, for a thing that only developers use.
        # The app may hold all threads of Trio's default limiter.
        limiter = trio.CapacityLimiter(1)
        while not await trio.to_thread.run_sync(self._changed, limiter=limiter):  # noqa: ASYNC110
            await trio.sleep(_EVERY)

    def _changed_while_loading(self) -> bool:
        # The date of a file can lie ahead, on a network's disk: that would be for ever.
        # A directory changes for other reasons, such as what the app does while it loads.
        return any(
            self._since < mtime <= time.time() and not path.is_dir()
            for path, mtime in self._files.items()
        )

    def _changed(self) -> bool:
        if check_for_updates(self._files):
            return True
        self._files = files_to_watch() | self._files
        return False
