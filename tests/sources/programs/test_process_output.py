"""Programs: their output, their failure, and that nothing of them is left.

On the real clock: they are processes of their own.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from flowstream import CloseReason, ndjson, raw, sse
from flowstream.sources import process_output
from flowstream.sources.programs import _spawn
from flowstream.testing import collect, open_stream


def shell(script: str, **options: Any) -> Any:
    """Return the output of a shell script as a source."""
    return process_output(["sh", "-c", script], **options)


def lives(pid: int) -> bool:
    """Return whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> list[str]:
    """Return the processes that this one started and has not taken leave of."""
    found = []
    for task in os.listdir("/proc/self/task"):
        found += Path(f"/proc/self/task/{task}/children").read_text().split()
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """No child, dead or alive, and no descriptor is left by any test here."""
    before = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert (children(), len(os.listdir("/proc/self/fd"))) == before


@pytest.fixture
def reports():
    """A list for ``on_close``."""
    return []


# -- what comes ------------------------------------------------------------------------------


async def test_lines_are_text_without_their_end(outlet):
    """The last one, too, that has none; what is no UTF-8 is replaced."""
    await shell(r"printf 'a\nb\r\n\n\377\nend'").run(outlet)
    assert outlet.items == ["a", "b", "", "\ufffd", "end"]


async def test_bytes_are_as_they_come():
    """All of them, in order, and the response is whole."""
    script = "i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done"
    answer = await collect(raw(shell(script, lines=False)))
    assert answer.body == b"".join(b"%d\n" % n for n in range(30_000))
    assert answer.complete


async def test_a_line_comes_as_soon_as_it_is_written(outlet):
    """Not when the program ends."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell("echo one; sleep 60").run, outlet)
        with trio.fail_after(10):
            await outlet.wait_for(1)
        nursery.cancel_scope.cancel()
    assert outlet.items == ["one"]


async def test_a_line_without_an_end_is_bounded(outlet):
    """It comes in pieces."""
    await shell("printf %050d 7", max_line=20).run(outlet)
    assert outlet.items == ["0" * 20, "0" * 20, "0" * 9 + "7"]


@pytest.mark.parametrize(
    ("stderr", "expected"), [("capture", ["out"]), ("discard", ["out"]), ("merge", ["out", "err"])]
)
async def test_stderr_goes_where_it_is_told(outlet, stderr, expected):
    """Into the output only if it is merged."""
    await shell("echo out; echo err >&2", stderr=stderr).run(outlet)
    assert outlet.items == expected


async def test_where_it_runs_and_with_what(outlet, tmp_path):
    """Directory, environment and arguments, taken as they are: there is no shell."""
    (tmp_path / "say").write_text('#!/bin/sh\npwd\necho "$WORD"\necho "$1"\n')
    (tmp_path / "say").chmod(stat.S_IRWXU)
    source = process_output(["./say", "$(id); *"], cwd=tmp_path, env={"WORD": "hello"})
    await source.run(outlet)
    assert outlet.items == [str(tmp_path), "hello", "$(id); *"]


async def test_its_input_is_bytes(outlet):
    """More than a pipe holds, while it writes as much."""
    given = b"".join(b"%d\n" % n for n in range(60_000))
    await process_output(["cat"], stdin=given).run(outlet)
    assert outlet.items == [str(n) for n in range(60_000)]


async def test_its_input_may_be_an_upload(outlet):
    """An async iterable; and it need not read all of it."""

    async def upload() -> AsyncIterator[bytes]:
        while True:
            yield b"line\n" * 1000
            await trio.lowlevel.checkpoint()

    await process_output(["head", "-n", "3"], stdin=upload()).run(outlet)
    assert outlet.items == ["line"] * 3


async def test_an_upload_that_fails_ends_it(outlet):
    """The error is the upload's, and the program does not wait for the rest."""

    async def upload() -> AsyncIterator[bytes]:
        yield b"a\n"
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"), trio.fail_after(10):
        await process_output(["cat"], stdin=upload()).run(outlet)


async def test_no_input_is_an_empty_one(outlet):
    """It does not wait for ours."""
    with trio.fail_after(10):
        await process_output(["cat"]).run(outlet)
    assert outlet.items == []


async def test_a_client_that_does_not_read_makes_it_wait(tmp_path, aeventually):
    """What it gets rid of is bounded by the pipe and the stream's buffer, and it goes on then."""
    progress = tmp_path / "progress"
    progress.touch()
    script = f"""
import os, sys
log = os.open({str(progress)!r}, os.O_WRONLY | os.O_APPEND)
for n in range(400):
    sys.stdout.buffer.write(bytes(65536)); sys.stdout.flush(); os.write(log, b".")
"""
    source = process_output([sys.executable, "-c", script], lines=False)
    async with open_stream(raw(source), window=0) as client:
        await aeventually(lambda: progress.stat().st_size >= 10, "it writes")
        last = -1
        while (size := progress.stat().st_size) != last:
            last = size
            await trio.sleep(0.1)
        assert size * 65536 < 2 * 1024 * 1024
        client.resume()
        assert len(await client.read_all()) == 400 * 65536
        assert client.complete


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["exit 3", "kill -9 $$"])
async def test_a_failure_is_told_without_its_details(end, reports, caplog):
    """`process_failed` to the client; status, program and the end of its stderr to the log."""
    source = shell(f"echo line; echo 'password is 123' >&2; {end}")
    answer = await collect(ndjson(source, on_close=reports.append))
    lines = answer.body.splitlines()
    assert lines[0] == b'"line"'
    assert b"process_failed" in lines[1]
    assert b"password" not in answer.body
    assert reports[0].reason is CloseReason.ERROR
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    text = logging.Formatter().format(record)
    assert "password is 123" in text
    assert "status 3" in text or "SIGKILL" in text


async def test_a_failure_before_the_first_item_is_a_500():
    """With `prime=`; and a raw stream that has begun is cut."""
    answer = await collect(raw(shell("exit 1", lines=False), prime=10))
    assert (answer.status, b"process_failed" in answer.body) == (500, True)
    assert not (await collect(raw(shell("echo half; exit 1", lines=False)))).complete


async def test_some_statuses_are_no_failure(outlet):
    """As the 1 of a grep that has found nothing."""
    await process_output(["grep", "x"], stdin=b"y\n", ok=(0, 1)).run(outlet)
    assert outlet.items == []


async def test_a_flood_on_stderr_is_bounded(caplog):
    """Its end is what the log gets, and the program is not held up by it."""
    script = "yes 0123456789 | head -c 3000000 >&2; echo the end >&2; echo out; exit 1"
    answer = await collect(ndjson(shell(script)))
    assert answer.body.startswith(b'"out"\n')
    text = logging.Formatter().format(caplog.records[-1])
    assert "the end" in text
    assert len(text) < 20_000


async def test_one_that_shuts_its_output_and_goes_on_is_waited_for(outlet):
    """Its status says whether what came was all."""
    await shell("echo a; exec >&- 2>&-; sleep 0.2").run(outlet)
    assert outlet.items == ["a"]
    with pytest.raises(Exception, match="process_failed"):
        await shell("exec >&- 2>&-; sleep 0.1; exit 1").run(outlet)


@pytest.mark.parametrize("how", ["", "setsid"])
async def test_what_is_left_behind_holds_nothing_up(outlet, how, aeventually):
    """One in the background has the pipe open; the stream ends `grace` seconds after its leader."""
    with trio.fail_after(10):
        await shell(f"{how} sleep 60 & echo $!; exec true", grace=0.1).run(outlet)
    pid = int(outlet.items[0])
    if how:
        assert lives(pid)  # it is in a session of its own: what is asked for like that is had
        os.kill(pid, signal.SIGKILL)
    else:
        await aeventually(lambda: not lives(pid), "it is gone", timeout=1)


# -- when the client goes --------------------------------------------------------------------

# Pids of one in the background, of its pipeline's end, of a grandchild, and of the leader.
PIPELINE = """
sleep 60 | (sleep 61 & echo $!; sh -c 'echo $$; sleep 62' & wait) &
echo $!; echo $$; wait
"""
CLEANING = "trap 'sleep 0.1; echo done > mark; exit' TERM; echo up; while :; do sleep 0.01; done"


async def test_the_whole_group_goes_with_the_client(aeventually):
    """Leader, pipeline, background and grandchildren, long before they would end by themselves."""
    async with open_stream(sse(shell(PIPELINE))) as client:
        pids = [int((await client.next_event()).data) for _ in range(4)]
        assert all(map(lives, pids))
        client.abort()
        await client.wait_finished()
    await aeventually(lambda: not any(map(lives, pids)), "all are gone")


async def test_one_that_ignores_sigterm_is_killed():
    """After `grace` seconds, and no earlier; what one that hears it still does is done."""
    async with open_stream(sse(shell("trap '' TERM; echo $$; sleep 60; sleep 60", grace=0.3))) as c:
        pid = int((await c.next_event()).data)
        started = time.perf_counter()
        c.abort()
        await c.wait_finished()
    assert not lives(pid)
    assert 0.3 <= time.perf_counter() - started < 30  # of the sixty


async def test_one_that_cleans_up_is_given_the_time(tmp_path):
    """A SIGTERM first: its handler runs to its end."""
    async with open_stream(sse(shell(CLEANING, cwd=tmp_path))) as client:
        await client.next_event()
    assert (tmp_path / "mark").read_text() == "done\n"


async def test_a_child_that_cleans_up_longer_than_its_leader_is_given_the_time(tmp_path):
    """The group is not killed with its leader, but when nobody has the output open any more."""
    async with open_stream(sse(shell(f'sh -c "{CLEANING}" & wait', cwd=tmp_path))) as client:
        await client.next_event()
    assert (tmp_path / "mark").read_text() == "done\n"


async def test_a_stopped_one_is_killed_all_the_same():
    """It hears no SIGTERM."""
    async with open_stream(sse(shell("echo $$; kill -STOP $$", grace=0.1))) as client:
        pid = int((await client.next_event()).data)
    assert not lives(pid)


async def test_nothing_is_started_for_nobody(tmp_path):
    """Not by the call, and not for a HEAD."""
    mark = tmp_path / "mark"
    source = shell(f"touch {mark}")
    await collect(sse(source), method="HEAD")
    assert not mark.exists()


async def test_two_hundred_aborts_leave_nothing():
    """At any moment: before it is started, while it is, and later. (See `_nothing_is_left`.)"""
    for n in range(200):
        with trio.move_on_after(n % 20 * 0.0003):
            await process_output(["sleep", "60"], stdin=b"x").run(None)  # type: ignore[arg-type]


async def test_one_whose_start_hangs_is_left_alone(monkeypatch, tmp_path, aeventually):
    """As on the disk of a server that is gone: what comes of it later is ended, and never read."""
    hangs, go_on = threading.Event(), threading.Event()
    popen = subprocess.Popen

    def hanging(*arguments, **options):
        hangs.set()
        assert go_on.wait(30)
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", hanging)
    monkeypatch.setattr(_spawn, "_PATIENCE", 0.01)
    before = children(), len(os.listdir("/proc/self/fd"))
    with trio.fail_after(10):
        async with open_stream(sse(process_output(["sleep", "60"]))) as client:
            await client.started()
            assert await trio.to_thread.run_sync(hangs.wait, 10)
            client.abort()
        assert client.finished
        assert len(os.listdir("/proc/self/fd")) > before[1]
    go_on.set()
    await aeventually(
        lambda: (children(), len(os.listdir("/proc/self/fd"))) == before, "all of it is gone"
    )


async def test_without_descriptors_it_fails_and_leaves_nothing(monkeypatch, outlet):
    """Where the system gives out none, the program that was started is ended."""

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        await process_output(["sleep", "60"]).run(outlet)


# -- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ("echo hello", {}, TypeError),
        (b"echo", {}, TypeError),
        ({"echo"}, {}, TypeError),
        ([], {}, ValueError),
        (["echo", 3], {}, TypeError),
        (["echo", "a\0b"], {}, ValueError),
        (["echo"], {"stderr": "inherit"}, ValueError),
        (["echo"], {"stdin": "text"}, TypeError),
        (["echo"], {"grace": 0}, ValueError),
        (["echo"], {"max_line": 1}, ValueError),
        (["echo"], {"encoding": "utf-16"}, ValueError),
        (["echo"], {"cwd": "/nowhere"}, NotADirectoryError),
        (["no-such-program"], {}, FileNotFoundError),
        (["./no-such-program"], {}, FileNotFoundError),
        (["echo"], {"env": {"PATH": "/nowhere"}}, FileNotFoundError),
        (["/etc/passwd"], {}, PermissionError),
        (["/etc"], {}, FileNotFoundError),
    ],
)
def test_arguments_are_checked_at_the_call(arguments, options, error):
    """A command line is refused, and so is a program that is not there."""
    with pytest.raises(error):
        process_output(arguments, **options)


async def test_one_that_vanishes_before_it_is_started_fails_the_stream(tmp_path):
    """As an internal error: it is none of the client's business."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(stat.S_IRWXU)
    source = process_output([program])
    program.unlink()
    answer = await collect(ndjson(source))
    assert b"internal" in answer.body
    assert str(tmp_path).encode() not in answer.body
