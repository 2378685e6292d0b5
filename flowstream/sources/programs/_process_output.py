"""Programs: send a program's output while it runs.

::

    @app.get("/ping")
    async def ping():
        return sse(process_output(["ping", "-c", "5", "localhost"]))

The program starts when the stream runs. When the stream ends, the program is ended, and so are the
programs that it started. While the client does not read, the pipe fills up, and the program waits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Mapping, Sequence
from typing import Literal

import trio

from flowstream._errors import PublicError
from flowstream.buffer._outlet import Outlet
from flowstream.limits import check_positive
from flowstream.sources._nurseries import run_with_tasks
from flowstream.sources._source import Source
from flowstream.sources.files._lines import MAX_LINE, LineSplitter, check_lines, text_of
from flowstream.sources.programs._program import Program
from flowstream.sources.programs._spawn import Argument, start_child

__all__ = ["process_output"]

Stdin = bytes | AsyncIterable[bytes] | None


class ProcessOutput(Source):
    """The output of a program; made by `process_output`."""

    def __init__(
        self,
        args: Sequence[Argument],
        *,
        lines: tuple[int, str] | None,
        stdin: Stdin,
        stderr: str,
        cwd: Argument | None,
        env: Mapping[str, str] | None,
        ok: Collection[int],
        grace: float,
    ) -> None:
        self._args = args
        self._lines = lines  # the bound of one, and its encoding
        self._stdin = stdin
        self._stderr = stderr
        self._cwd = cwd
        self._env = env
        self._ok = ok
        self._grace = grace

    async def run(self, out: Outlet) -> None:
        """Start the program, and send its output until it has ended.

        Raises:
            PublicError: ``process_failed``: its exit status is not in `ok`.
            OSError: it could not be started.
            Exception: what the iterable of its input raised.
        """
        child = await start_child(
            self._args,
            stdin=self._stdin is not None,
            stderr=self._stderr,
            cwd=self._cwd,
            env=self._env,
        )
        unfed: Exception | None = None

        async def feed() -> None:
            nonlocal unfed
            try:
                await _feed(child, self._stdin)
            except Exception as error:  # noqa: BLE001  # raised below
                unfed = error
                child.kill()  # it would wait for the rest

        async def send_all(nursery: trio.Nursery) -> None:
            nursery.start_soon(child.watch, self._grace)
            if self._stderr == "capture":
                nursery.start_soon(child.read_errors)
            if self._stdin is not None:
                nursery.start_soon(feed)
            await self._send_all(child, out)

        try:
            await run_with_tasks(send_all)
        finally:
            code = await child.end(self._grace)  # noqa: ASYNC102  # shields itself
        if unfed is not None:
            raise unfed
        if code not in self._ok:
            raise self._failure(code, child.errors)

    async def _send_all(self, child: Program, out: Outlet) -> None:
        if self._lines is None:
            while data := await child.read():
                await out.send(data)
        else:
            await _send_lines(child, out, *self._lines)
        # It may have closed its output and go on. Wait for its status.
        await child.exited()

    def _failure(self, code: int | None, errors: bytes) -> PublicError:
        program = os.fsdecode(self._args[0])  # the arguments may be secrets
        cause = subprocess.CalledProcessError(-9 if code is None else code, program)
        if errors:
            cause.add_note(f"the end of its stderr:\n{errors.decode('utf-8', 'replace')}")
        error = PublicError("process_failed", "The program that makes this stream failed.")
        error.__cause__ = cause
        return error


async def _send_lines(child: Program, out: Outlet, max_line: int, encoding: str) -> None:
    splitter = LineSplitter(max_line)
    more = True
    while more:
        data = await child.read()
        more = bool(data)
        for line in splitter.feed(data) if data else splitter.flush():
            wait = out._put(text_of(line, encoding))
            if wait is not None:
                await wait


async def _feed(child: Program, given: Stdin) -> None:
    """Write the input to the program, and close it."""
    assert child.stdin is not None
    async with child.stdin as stdin:
        with contextlib.suppress(trio.BrokenResourceError):  # it reads no more
            if isinstance(given, bytes):
                await stdin.send_all(given)
            elif given is not None:
                await _feed_each(stdin, given)


async def _feed_each(stdin: trio.abc.SendStream, given: AsyncIterable[bytes]) -> None:
    iterator = aiter(given)
    try:
        async for piece in iterator:
            await stdin.send_all(piece)
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()  # noqa: ASYNC102  # what it awaits there is its own affair


def process_output(
    args: Sequence[Argument],
    *,
    lines: bool = True,
    stderr: Literal["capture", "merge", "discard"] = "capture",
    stdin: Stdin = None,
    cwd: Argument | None = None,
    env: Mapping[str, str] | None = None,
    ok: Collection[int] = (0,),
    encoding: str = "utf-8",
    max_line: int = MAX_LINE,
    grace: float = 2.0,
) -> Source:
    """Return the output of a program as a source.

    It starts when the stream runs, without a shell, in a session of its own. When the client
    leaves, or the stream ends in another way, the program gets a SIGTERM, and so do all programs
    that it started, unless they began their own session. What is left after `grace` seconds gets a
    SIGKILL.

    The stream ends with the program; processes that it leaves behind may write for `grace`
    seconds more. If the program closes its output and goes on, the stream waits for it. Most
    programs keep a few kilobytes back when they write to a pipe: see their options
    (``python -u``), or ``stdbuf -oL``.

    Args:
        args: the program and its arguments. Most programs take an argument that begins with
            ``-`` for an option, even if it comes from a client: put ``"--"`` before such words.
        lines: whether an item is a line: a `str` without its line break. Otherwise items are
            bytes, as they come, for `raw`.
        stderr: ``"capture"`` keeps the last 8 KiB for the log, in case the program fails;
            ``"merge"`` puts it into the output; ``"discard"`` drops it.
        stdin: what the program reads: bytes, or an async iterable of them, such as a request's
            body; None for nothing.
        cwd: the directory to run in.
        env: its environment; None for that of this process, with all the secrets in it.
        ok: the exit statuses that are not a failure.
        encoding: of lines. Bytes that it can't read become U+FFFD. Lines must end with the
            byte 10.
        max_line: most bytes of a line that are held until the line is complete. A longer line
            comes in pieces of that size.
        grace: seconds between a SIGTERM and a SIGKILL. Keep it below `Limits.cleanup_timeout`.

    Raises:
        FileNotFoundError, PermissionError: there is no such program, or it can't be run.
        NotADirectoryError: `cwd` is no directory.
        TypeError, ValueError, LookupError: an argument is not what is said above.
    """
    checked = _check_args(args)
    check_lines(max_line, encoding)
    check_positive("grace", grace, unit="seconds")
    if stderr not in ("capture", "merge", "discard"):
        raise ValueError(f"stderr must be 'capture', 'merge' or 'discard', not {stderr!r}")
    if not (stdin is None or isinstance(stdin, bytes) or hasattr(stdin, "__aiter__")):
        kind = type(stdin).__name__
        raise TypeError(f"stdin must be bytes or an async iterable of them, not a {kind}")
    if not isinstance(ok, Collection) or not all(isinstance(code, int) for code in ok):
        raise TypeError(f"ok must be a collection of ints, such as (0, 1), not {ok!r}")
    if env is not None:
        _check_env(env)
    if cwd is not None and not os.path.isdir(cwd):
        raise NotADirectoryError(f"{os.fsdecode(cwd)!r} is no directory")
    _check_program(os.fsdecode(checked[0]), "" if cwd is None else os.fsdecode(cwd), env)
    return ProcessOutput(
        checked,
        lines=(max_line, encoding) if lines else None,
        stdin=stdin,
        stderr=stderr,
        cwd=cwd,
        env=env,
        ok=ok,
        grace=grace,
    )


def _check_args(args: Sequence[Argument]) -> list[Argument]:
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise TypeError(
            "args must be a list, since there is no shell to take a command line apart; not a "
            f"{type(args).__name__}: write ['ls', '-l']"
        )
    if not args:
        raise ValueError("args must have the program in it")
    for arg in args:
        if not isinstance(arg, str | bytes | os.PathLike):
            raise TypeError(f"an argument must be a str, bytes or a path, not {arg!r}")
        if "\0" in os.fsdecode(arg):
            raise ValueError(f"an argument can't have a NUL in it: {arg!r}")
    return list(args)


def _check_env(env: Mapping[str, str]) -> None:
    words = [*env.keys(), *env.values()] if isinstance(env, Mapping) else [env]
    if not all(isinstance(word, str | bytes | os.PathLike) for word in words):
        raise TypeError("env must be a mapping of str to str")  # its values may be secrets


def _check_program(program: str, cwd: str, env: Mapping[str, str] | None) -> None:
    if os.path.dirname(program):
        path = os.path.join(cwd, program)  # as the system finds it: from where it will run
        found = os.path.isfile(path) and os.access(path, os.X_OK)
        if os.path.isfile(path) and not found:
            raise PermissionError(f"{program!r} may not be run")
    else:
        found = shutil.which(program, path=os.pathsep.join(os.get_exec_path(env))) is not None
    if not found:
        words = program.split()
        advice = f": the arguments are items of the list, {words!r}" if len(words) > 1 else ""
        raise FileNotFoundError(f"there is no program {program!r}{advice}")
