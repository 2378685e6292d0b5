"""A progress bar on standard error, for the one step of the demo that takes seconds.

`rich` (the extra ``demo``) draws it; without `rich` it is a percentage on one line. Standard output
stays clean, and nothing is drawn if standard error is not a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs. Call the yielded function with the done part of `total`."""
    if not sys.stderr.isatty():
        sys.stderr.write(f"{title} ...\n")
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield _percentage(title, total)
        sys.stderr.write("\n")
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


def _percentage(title: str, total: int) -> Callable[[int], None]:
    shown = -1

    def show(done: int) -> None:
        nonlocal shown
        percent = done * 100 // total
        if percent != shown:
            shown = percent
            sys.stderr.write(f"\r{title} {percent:3d} %")
            sys.stderr.flush()

    return show
