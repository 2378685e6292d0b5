"""Following a file: every line once and in order, through rotation, truncation and reconnects.

On the real clock: files are read in threads, which a virtual clock does not wait for.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import threading
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from flowstream import NotFoundError, PublicError, ndjson, raw, sse
from flowstream.buffer._outlet import Outlet
from flowstream.sources import follow
from flowstream.sources.files._file_position import FilePosition, LineCounter
from flowstream.sources.files._lines import LineSplitter, text_of
from flowstream.sources.files._rotated import rotated
from flowstream.sources.files._tail import Tail
from flowstream.testing import collect, open_stream

POLL = 0.005


class Kept(Outlet):
    """An outlet that keeps the events it is given."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    async def send(self, item: Any) -> None:
        self.events.append(item)
        await trio.lowlevel.checkpoint()

    def send_nowait(self, item: Any) -> None:
        raise NotImplementedError

    def statistics(self) -> Any:
        raise NotImplementedError

    @property
    def lines(self) -> list[Any]:
        """The text of each line; a gap is None."""
        return [None if event.type == "gap" else event.data for event in self.events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "app.log"


@pytest.fixture
def until(aeventually):
    """Wait until an outlet has these lines."""

    async def wait(out: Kept, expected: list[Any]) -> None:
        try:
            await aeventually(lambda: len(out.events) >= len(expected), "lines", timeout=5)
        except AssertionError:
            assert out.lines == expected
        assert out.lines == expected

    return wait


@asynccontextmanager
async def following(path, *, after=None, **options) -> AsyncIterator[Kept]:
    """Follow the file within the block."""
    out = Kept()
    source = follow(path, poll=POLL, **options).resumed(after)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, out)
        yield out
        nursery.cancel_scope.cancel()


async def begun(path):
    """Wait until the first look is over."""
    with trio.fail_after(5):
        while not descriptors(path):  # noqa: ASYNC110  # there is no event
            await trio.sleep(POLL)
    await trio.sleep(POLL * 4)


def append(path, text):
    with Path(path).open("ab") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def descriptors(path):
    """Return how many descriptors of this process are of files in the directory of `path`."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith(f"{os.path.dirname(path)}/")
        except OSError:
            continue
    return found


# -- lines -----------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="aä€😀\n\r", max_size=40)), st.integers(16, 60), st.data())
def test_lines_are_the_same_however_the_bytes_come(texts, max_line, data):
    """Cut anywhere, nothing is lost, and no piece is longer than it may be."""
    content = "".join(texts).encode()
    splitter = LineSplitter(max_line)
    lines, at = [], 0
    while at < len(content):
        size = data.draw(st.integers(1, 50))
        lines += splitter.feed(content[at : at + size])
        at += size
    lines += splitter.flush()
    assert b"".join(lines) == content
    assert all(len(line) <= max_line + 1 for line in lines)
    assert all(b"\n" not in line[:-1] for line in lines)
    for line in lines:
        line.decode()  # no character is in two pieces
    if all(len(text) <= max_line for text in content.split(b"\n")):
        assert [line.removesuffix(b"\n") for line in lines] == content.removesuffix(b"\n").split(
            b"\n"
        )[: len(lines)]


@given(st.lists(st.binary(max_size=40)), st.integers(16, 60))
def test_bytes_that_are_no_text_are_cut_as_well(pieces, max_line):
    """Whatever they are, nothing is lost, and the pieces do not depend on how they came."""
    splitter = LineSplitter(max_line)
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.flush()
    assert b"".join(lines) == b"".join(pieces)
    assert all(0 < len(line) <= max_line + 1 for line in lines)
    splitter = LineSplitter(max_line)
    assert splitter.feed(b"".join(pieces)) + splitter.flush() == lines


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a\rb\n", "a\rb"),
        (b"a\r", "a\r"),
        (b"\n", ""),
        (b"caf\xe9\n", "caf\ufffd"),
    ],
)
def test_the_text_of_a_line(line, text):
    """Without its end; what is no UTF-8 is replaced."""
    assert text_of(line, "utf-8") == text


def test_a_line_that_never_ends_is_cut_where_nothing_else_is_possible():
    """Bytes that are no UTF-8 at all come in pieces of the bound."""
    assert LineSplitter(16).feed(b"\x80" * 40) == [b"\x80" * 16, b"\x80" * 16]


def test_a_long_line_in_small_pieces_costs_no_more_than_a_short_one():
    """What is held back is not copied for each piece: a line of megabytes stops nobody else."""

    def seconds(pieces):
        splitter = LineSplitter(1 << 24)
        piece = b"x" * 1024
        started = time.thread_time()
        for _ in range(pieces):
            splitter.feed(piece)
        assert len(splitter.feed(b"\n")[0]) == pieces * 1024 + 1
        return time.thread_time() - started

    # Eight times as much: 64 times the work if each piece copied those before it.
    assert min(seconds(4096) for _ in range(3)) < 32 * min(seconds(512) for _ in range(3))


# -- places ----------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=100), min_size=1), st.integers(1, 2**64 - 1))
def test_a_place_is_told_by_the_bytes_before_it(pieces, inode):
    """The id after any pieces is that of the offset, with a checksum of at most 64 bytes."""
    cursor = LineCounter(inode, 0, b"")
    ids = [cursor.pass_over(piece) for piece in pieces]
    content = b"".join(pieces)
    assert FilePosition.parse(ids[-1]) == FilePosition(
        inode, len(content), zlib.crc32(content[-64:])
    )
    assert str(FilePosition.parse(ids[-1])) == ids[-1]


@pytest.mark.parametrize(
    "id", ["", "1-2", "1-2-3", "1-2-zzzzzzzz", "1-2-00000000 ", "e.12", "-" * 9]
)
def test_a_strange_id_is_no_place(id):
    """Nor an error."""
    assert FilePosition.parse(id) is None


# -- the beginning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "last", "expected"),
    [
        ("a\nb\nc\n", None, ["a", "b", "c"]),
        ("a\nb\nc\n", 2, ["b", "c"]),
        ("a\nb\nc\n", 3, ["a", "b", "c"]),
        ("a\nb\nc\n", 9, ["a", "b", "c"]),
        ("a\nb\nc\n", 0, []),
        ("a\nb\nhal", 0, ["half"]),
        ("a\nb\nhal", 1, ["half"]),
        ("a\nb\nhal", 2, ["b", "half"]),
        ("", 3, []),
        ("hal", 5, ["half"]),
        ("\n\n\n", 2, ["", ""]),
        ("x" * 200_000 + "\nb\n", 1, ["b"]),
        ("".join(f"{n}\n" for n in range(50_000)), 3, ["49997", "49998", "49999"]),
    ],
)
async def test_a_new_client_begins_with_the_last_lines(path, until, content, last, expected):
    """As many as were asked for; one that has no end yet comes when it has."""
    path.write_text(content)
    async with following(path, last=last) as out:
        await begun(path)
        await until(out, [line for line in expected if line != "half"])
        append(path, "f\n" if "half" in expected else "next\n")
        await until(out, expected if "half" in expected else [*expected, "next"])


async def test_last_lines_are_looked_for_within_a_bound(path, until):
    """A file without line breaks is not read from its beginning, whatever its size."""
    path.write_bytes(b"x" * 100_000 + b"\n")
    async with following(path, last=5, replay=100, max_line=1000) as out:
        await until(out, ["x" * 99])


async def test_a_file_that_is_not_there_yet_is_new_when_it_comes(path, until):
    """From its first line, whatever `last` says; and again when it has gone for a while."""
    async with following(path, last=0) as out:
        await trio.sleep(POLL * 3)
        append(path, "a\n")
        await until(out, ["a"])
        path.unlink()
        await trio.sleep(POLL * 3)
        append(path, "b\n")
        await until(out, ["a", "b"])


def test_the_log_names_a_file_that_is_waited_for(path, caplog):
    """A wrong path looks the same as a file that is yet to come, so there is a word of it."""
    follow(path)
    assert str(path) in caplog.text
    path.touch()
    caplog.clear()
    follow(path)
    assert not caplog.text


# -- what comes ------------------------------------------------------------------------------


async def test_half_a_line_waits_for_its_other_half(path, until):
    """And a character that is written in two halves is one."""
    path.touch()
    async with following(path) as out:
        append(path, "one\ntwo \u20ac".encode()[:-1])
        await until(out, ["one"])
        append(path, b"\xac!\r\n")
        await until(out, ["one", "two \u20ac!"])


async def test_a_line_without_an_end_is_bounded(path, until):
    """It comes in pieces, and what follows it is whole."""
    path.touch()
    async with following(path, max_line=100) as out:
        append(path, "x" * 250)
        await until(out, ["x" * 100, "x" * 100])
        append(path, "y\nnext\n")
        await until(out, ["x" * 100, "x" * 100, "x" * 50 + "y", "next"])


async def test_bytes_are_as_they_come(path):
    """For `raw`: no lines, no ids, nothing held back."""
    path.write_bytes(b"a\nb\n\xff\xfe")
    source = follow(path, last=1, lines=False, poll=POLL)
    async with open_stream(raw(source)) as client:
        assert await client.read(2) == b"\xff\xfe"
        append(path, b"\0\n")
        assert await client.read(2) == b"\0\n"


# -- rotation and truncation -----------------------------------------------------------------


async def test_a_renamed_file_is_read_to_its_end_first(path, until):
    """Its writer goes on in it until it is told; its last line may have no end."""
    append(path, "a\n")
    async with following(path) as out:
        await until(out, ["a"])
        with path.open("ab") as writer:
            path.rename(path.with_suffix(".log.1"))
            path.touch()
            await trio.sleep(POLL * 4)
            writer.write(b"b\n")
            writer.flush()
            await until(out, ["a", "b"])
            writer.write(b"c\nend")
        append(path, "d\n")
        await until(out, ["a", "b", "c", "end", "d"])
    assert descriptors(path) == 0


async def test_files_that_came_and_went_between_two_looks_are_found(path, until):
    """Under the names that they have by then, in the order in which they were written."""
    append(path, "0\n")
    tail = Tail(path, last=None, after=None, replay=0)
    seen = b""
    while piece := tail.look():
        seen += piece.data
        if not piece.more:
            break
    for n in range(1, 6):
        path.rename(f"{path}-2026-{n}")
        append(path, f"{n}\n")
        os.utime(path, ns=(0, os.stat(f"{path}-2026-{n}").st_mtime_ns + 1))
    append(path.with_name("app.log.other"), "no\n")
    append(path.with_name("application.log"), "no\n")
    while (piece := tail.look()).more:
        assert not piece.lost
        seen += piece.data
    assert seen == b"0\n1\n2\n3\n4\n5\n"
    tail.close()


async def test_one_that_was_compressed_before_it_was_found_is_a_gap(path, until):
    """What cannot be read is announced, at its place."""
    append(path, "a\n")
    async with following(path) as out:
        await until(out, ["a"])
        path.rename(path.with_name("app.log.3"))
        append(path.with_name("app.log.2.gz"), b"\x1f\x8b of what there was")
        append(path, "c\n")
        await until(out, ["a", None, "c"])
    assert out.events[1].data == {"missed": None, "after": out.events[0].id, "before": None}


def test_the_files_that_had_a_name_before(path):
    """By the usual names, the oldest first; empty ones and strangers are none."""
    names = [".1", ".2.gz", "-20260102", ".2026-01-03_04", ".old"]
    for age, name in enumerate(names):
        other = path.with_name(path.name + name)
        other.write_text("x")
        os.utime(other, (age, age))
    for name in (".txt", ".1~", "x.1", ".", ".err.1"):
        path.with_name(path.name + name).write_text("x")
    path.with_name(path.name + ".9").touch()
    path.with_name(path.name + ".8").mkdir()
    path.with_name(path.name + ".7").symlink_to("nowhere")
    found = [(one.path.removeprefix(str(path)), one.readable) for one in rotated(path)]
    assert found == [(name, not name.endswith(".gz")) for name in names]
    assert rotated("/nowhere/at/all") == []


@pytest.mark.parametrize("content", ["x\n", "longer than it was before\nmore\n", "1\n2\n"])
async def test_a_file_that_is_emptied_is_read_anew(path, until, content):
    """Shorter, longer or of the same length as before: it is noticed, and announced."""
    append(path, "1\n2\n")
    async with following(path) as out:
        await until(out, ["1", "2"])
        with path.open("r+b") as file:  # in one write, so that no look finds it empty
            file.truncate(0)
            file.write(content.replace("1", "9").encode())
        new = content.replace("1", "9").splitlines()
        await until(out, ["1", "2", None, *new])
        append(path, "then\n")
        await until(out, ["1", "2", None, *new, "then"])


async def test_bytes_of_a_file_that_is_emptied_go_on_and_the_log_says_so(path, caplog):
    """There is no place for a gap between bytes."""
    append(path, "before")
    async with open_stream(raw(follow(path, last=None, lines=False, poll=POLL))) as client:
        assert await client.read(6) == b"before"
        path.write_bytes(b"anew")
        assert await client.read(4) == b"anew"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


class Writer:
    """Writes numbered lines in a thread, and rotates at random while it does."""

    def __init__(self, path: Path, seed: int, *, copytruncate: bool) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.copytruncate = copytruncate
        self.rotations = 0
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        file = self.path.open("ab", buffering=0)
        for n in range(20_000):
            filler = self.random.randbytes(self.random.randrange(40)).hex()
            line = f"{n} {filler}.\n".encode()
            if self.random.random() < 0.02:
                cut = self.random.randrange(len(line))
                file.write(line[:cut])
                line = line[cut:]
            file.write(line)
            if self.random.random() < 1 / 1000:
                self.rotations += 1
                if self.copytruncate:
                    os.truncate(self.path, 0)
                else:
                    file = self.rotate(file)
        file.close()

    def rotate(self, file):
        self.pause()
        self.path.rename(f"{self.path}.{self.rotations}")
        if self.random.random() < 0.5:
            self.path.touch()
        self.pause()
        if self.random.random() < 0.5:
            file.write(b"late %d\n" % self.rotations)
        file.close()
        return self.path.open("ab", buffering=0)

    def pause(self):
        threading.Event().wait(self.random.random() * 4 * POLL)


@pytest.mark.parametrize("seed", range(3))
async def test_no_line_is_lost_or_twice_through_rotations(path, aeventually, seed):
    """Twenty thousand lines of a writer that rotates at random, at any moment of ours."""
    writer = Writer(path, seed, copytruncate=False)
    path.touch()
    async with following(path, last=None) as out:
        await begun(path)
        writer.thread.start()
        try:
            await aeventually(lambda: out.lines[-1:] and out.lines[-1].startswith("19999 "), "it")
        finally:
            await trio.to_thread.run_sync(writer.thread.join)
    numbers = [int(line.split()[0]) for line in out.lines if not line.startswith("late")]
    assert numbers == list(range(20_000))
    late = [int(line.split()[1]) for line in out.lines if line.startswith("late")]
    assert late == sorted(late)
    assert writer.rotations > 5
    assert descriptors(path) == 0


async def test_what_truncation_loses_is_announced(path, aeventually, until):
    """By its nature some lines are lost; each hole is a gap, nothing is twice or out of order."""
    writer = Writer(path, 1, copytruncate=True)
    append(path, "by what it is known\n")  # of an empty file nobody can tell whether it was emptied
    async with following(path, last=None) as out:
        await until(out, ["by what it is known"])
        writer.thread.start()
        try:
            await aeventually(
                lambda: out.lines[-1:] and (out.lines[-1] or "").startswith("19999 "), "the last"
            )
        finally:
            await trio.to_thread.run_sync(writer.thread.join)
    expected, announced = 0, False
    for line in out.lines:
        if line is None:
            announced = True
        elif line.endswith("."):  # else it is the half that was read before the file was emptied
            number = int(line.split()[0])
            assert number == expected or (announced and number > expected)
            expected, announced = number + 1, False
    assert expected == 20_000
    assert writer.rotations > 5


# -- coming back -----------------------------------------------------------------------------


async def ids(path, count):
    """Return the ids of the lines of a file."""
    async with following(path, last=None) as out:
        while len(out.events) < count:  # noqa: ASYNC110  # there is no event
            await trio.sleep(POLL)
    return [event.id for event in out.events]


async def test_a_client_goes_on_where_it_was(path, until):
    """After any of its lines, with all that was appended while it was away."""
    append(path, "a\nb\nc\n")
    for n, id in enumerate(await ids(path, 3)):
        async with following(path, after=id, last=0) as out:
            await until(out, ["a", "b", "c"][n + 1 :])


async def test_a_client_goes_on_in_a_file_that_was_renamed_since(path, until):
    """The rest of that one, those after it, then the one that is there now: no gap."""
    append(path, "a\nb\n")
    id = (await ids(path, 2))[0]
    for n in (1, 2):
        path.rename(f"{path}.{n}")
        os.utime(f"{path}.{n}", (n, n))
        append(path, f"{n}\n")
    async with following(path, after=id, last=0) as out:
        await until(out, ["b", "1", "2"])
        append(path, "3\n")
        await until(out, ["b", "1", "2", "3"])
    assert descriptors(path) == 0


async def test_a_client_whose_file_is_gone_gets_a_gap_and_the_new_one(path, until):
    """All of that, since all of it is new to it."""
    append(path, "a\nb\n")
    id = (await ids(path, 2))[0]
    path.rename(path.with_name("else"))
    append(path, "c\nd\n")
    async with following(path, after=id, last=1) as out:
        await until(out, [None, "c", "d"])
    gap = out.events[0]
    assert gap.data == {"missed": None, "after": id, "before": None}
    async with following(path, after=gap.id, last=0) as out:
        await until(out, ["c", "d"])


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("X\nY\nlonger than before\n"),
        lambda path: path.write_text(""),
        lambda path: path.write_text("Z\n"),
    ],
)
async def test_an_inode_alone_is_not_trusted(path, until, change):
    """A file that was written anew, or another with the same inode, is not gone on with."""
    append(path, "a\nb\n")
    id = (await ids(path, 2))[1]
    change(path)
    async with following(path, after=id, last=1) as out:
        await until(out, [None, *path.read_text().splitlines()])


@pytest.mark.parametrize(
    "id", ["nonsense", "0-0-00000000", "f" * 16 + "-" + "f" * 16 + "-" + "f" * 8]
)
async def test_a_made_up_id_is_a_gap(path, until, id):
    """Not an error; and it opens no more of the file than `replay`."""
    append(path, "".join(f"{n}\n" for n in range(100)))
    async with following(path, after=id, last=2, replay=50) as out:
        await until(out, [None, "98", "99"])


async def test_a_client_that_is_too_far_behind_gets_a_gap(path, until):
    """More than `replay` bytes: the last lines are what it gets."""
    append(path, "a\n")
    (id,) = await ids(path, 1)
    append(path, "x" * 100 + "\n" + "z\n")
    async with following(path, after=id, last=1, replay=50) as out:
        await until(out, [None, "z"])
    path.rename(f"{path}.1")
    append(path, "new\n")
    async with following(path, after=id, last=1, replay=50) as out:
        await until(out, [None, "new"])


async def test_a_client_comes_back_before_the_file_does(path, until):
    """It waits, and then goes on in the old one and the new one."""
    append(path, "a\nb\n")
    id = (await ids(path, 2))[0]
    path.rename(f"{path}.1")
    async with following(path, after=id, last=0) as out:
        await trio.sleep(POLL * 3)
        append(path, "c\n")
        await until(out, ["b", "c"])


async def test_the_browser_comes_back_with_what_it_saw(path):
    """Through a stream: each line's id is the one to come back with, in SSE and NDJSON."""
    append(path, "a\nb\nc\n")
    log = follow(path, poll=POLL, last=None)
    async with open_stream(sse(log)) as client:
        seen = [await client.next_event() for _ in range(2)]
    assert [event.data for event in seen] == ["a", "b"]
    headers = {"Last-Event-ID": seen[-1].id or ""}
    async with open_stream(sse(log), headers=headers) as client:
        assert (await client.next_event()).data == "c"
    async with open_stream(ndjson(log), query_string=b"lastEventId=1-2-00000000") as client:
        gap = await client.next_value()
        assert gap["type"] == "gap"
        assert gap["data"]["after"] == "1-2-00000000"
        assert (await client.next_value())["data"] == "a"


# -- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "fifo", "a\0b", "file/x", "loop"])
def test_what_will_never_be_a_file_is_not_found(path, name):
    """At the call, with a 404; so is one that is missing, if that is not ok."""
    os.mkfifo(path.with_name("fifo"))
    path.with_name("file").touch()
    path.with_name("loop").symlink_to("loop")
    with pytest.raises(NotFoundError):
        follow(os.path.join(path.parent, name))
    with pytest.raises(NotFoundError):
        follow(path, missing_ok=False)
    follow(path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"last": -1}, ValueError),
        ({"last": "3"}, TypeError),
        ({"replay": None}, TypeError),
        ({"replay": -1}, ValueError),
        ({"poll": 0}, ValueError),
        ({"max_line": 3}, ValueError),
        ({"max_line": None}, TypeError),
        ({"encoding": "utf-16"}, ValueError),
        ({"encoding": "nothing"}, LookupError),
    ],
)
def test_arguments_are_checked_at_the_call(path, arguments, error):
    """With an error that says what is wrong."""
    with pytest.raises(error):
        follow(path, **arguments)


async def test_what_may_not_be_read_is_forbidden(path, monkeypatch):
    """At the call a 403; in a stream that is under way `failed`, after the lines before it."""
    append(path, "a\n")
    real = os.open

    def refuse(name, *arguments, **options):
        if str(name) == str(path):
            raise PermissionError
        return real(name, *arguments, **options)

    source = follow(path, poll=POLL)
    async with open_stream(sse(source)) as client:
        assert (await client.next_event()).data == "a"
        monkeypatch.setattr(os, "open", refuse)
        append(path, "b\n")
        assert (await client.next_event()).data == "b"
        path.rename(f"{path}.1")
        append(path, "secret\n")
        failed = await client.next_event()
        assert failed.type == "failed"
        assert json.loads(failed.data)["code"] == "forbidden"
    with pytest.raises(PublicError) as caught:
        follow(path)
    assert caught.value.status == 403
    answer = await collect(sse(source, prime=5))
    assert answer.status == 403


async def test_a_file_that_is_unreadable_for_a_moment_is_read_then(path, until, monkeypatch):
    """As one is that has just been made and not yet been given to its owner."""
    append(path, "a\n")
    real, refusals = os.open, 2

    def refuse(name, *arguments, **options):
        nonlocal refusals
        if str(name) == str(path) and refusals:
            refusals -= 1
            raise PermissionError
        return real(name, *arguments, **options)

    async with following(path) as out:
        await until(out, ["a"])
        monkeypatch.setattr(os, "open", refuse)
        path.rename(f"{path}.1")
        append(path, "b\n")
        await until(out, ["a", "b"])
    assert refusals == 0


# -- what is held ----------------------------------------------------------------------------


async def test_a_client_that_does_not_read_loses_no_file(path, aeventually):
    """Files that come and are deleted while it waits are held open for it."""
    append(path, "0" * 300_000 + "\n")
    source = follow(path, last=None, poll=POLL, max_line=1000)
    async with open_stream(sse(source), window=0) as client:
        await begun(path)
        for n in range(1, 4):
            path.rename(gone := path.with_name(f"app.log.{n}"))
            append(path, f"line {n}\n")
            await aeventually(lambda n=n: descriptors(path) == n + 1, "it is held")
            gone.unlink()
        client.resume()
        while (event := await client.next_event()).data.startswith("0"):
            assert event.type == "message"
        got = [event.data, (await client.next_event()).data, (await client.next_event()).data]
        assert got == ["line 1", "line 2", "line 3"]
    assert descriptors(path) == 0


async def test_two_hundred_aborts_leave_no_descriptor(path):
    """At any moment of a look."""
    append(path, "a\n" * 1000)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(200):
        with trio.move_on_after(n % 10 * 0.0005):
            await follow(path, poll=POLL).run(Kept())
    with trio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) != before:  # noqa: ASYNC110  # nor here
            await trio.sleep(POLL)


@pytest.mark.parametrize("use", [Tail.look, Tail.find])
def test_a_look_that_fails_when_the_client_has_gone_leaves_no_descriptor(path, monkeypatch, use):
    """The thread that is in it closes the files, which nobody else will."""
    append(path, "line\n")
    tail = Tail(path, last=None, after=None, replay=0)
    tail.look()

    def fail():
        tail.close()  # as the event loop does it meanwhile
        raise OSError(errno.ESTALE, "the file server has restarted")

    monkeypatch.setattr(tail, "_find", fail)
    assert descriptors(path) == 1
    with pytest.raises(OSError, match="restarted"):
        use(tail)
    assert descriptors(path) == 0


async def test_a_slow_disk_holds_up_neither_the_loop_nor_the_abort(path, monkeypatch, aeventually):
    """The thread that hangs is left alone, and closes the file when it is out."""
    append(path, "a\n")
    hangs, go_on = threading.Event(), threading.Event()
    pread = os.pread

    def hanging(*arguments):
        hangs.set()
        assert go_on.wait(30)
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", hanging)
    async with open_stream(sse(follow(path, poll=POLL))) as client:
        await aeventually(hangs.is_set, "the read begins")
    assert client.finished
    assert descriptors(path) == 1
    go_on.set()
    await aeventually(lambda: descriptors(path) == 0, "the file is closed")
