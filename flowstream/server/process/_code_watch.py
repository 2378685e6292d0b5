"""Notice that the code of this process has changed on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import trio

from flowstream.server._hypercorn import check_for_updates, files_to_watch

# Seconds between two checks: short enough that a saved file is noticed before one reloads a page.
_EVERY = 0.25


class CodeWatch:
    """Watches the files of all imported modules, also of those imported later.

    Args:
        since: when the process began to read them, in seconds since the epoch.
        also: other files or directories to watch.
    """

    def __init__(self, since: float, also: Iterable[Path] = ()) -> None:
        self._since = since
        self._files = {path: path.stat().st_mtime for path in also if path.exists()}
        self._files.update(files_to_watch())

    async def wait(self) -> None:
        """**Wait** until one of the files has changed."""
        if self._changed_while_loading():
            return
        # Poll: inotify would be a dependency, for something that only developers use.
        # Use a limiter of our own: the app may hold all threads of Trio's default one.
        limiter = trio.CapacityLimiter(1)
        while not await trio.to_thread.run_sync(self._changed, limiter=limiter):  # noqa: ASYNC110
            await trio.sleep(_EVERY)

    def _changed_while_loading(self) -> bool:
        # On a network's disk a file's date can be in the future: it would look changed for ever.
        # A directory also changes for other reasons, for example by what a loading app does.
        return any(
            self._since < mtime <= time.time() and not path.is_dir()
            for path, mtime in self._files.items()
        )

    def _changed(self) -> bool:
        if check_for_updates(self._files):
            return True
        self._files = files_to_watch() | self._files
        return False
