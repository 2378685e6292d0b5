"""The spool of a log: nothing is lost while somebody reads, and nobody waits when nobody does."""

import contextlib
import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading

import pytest

from flowstream.server.log._log_handlers import LogFile, announcement
from flowstream.server.log._sinks import Direct, Sink, sink
from flowstream.server.log._spool import NOBODY_READS, Spool

LINE = b"0123456789abcdef" * 4 + b"\n"


class Gate(Sink):
    """Takes what its gate lets through: all, nothing, or an error."""

    def __init__(self):
        super().__init__(-1)
        self.taken = b""
        self.room = sys.maxsize
        self.error = None
        self.opened = threading.Event()

    def write_nowait(self, data):
        if self.error is not None:
            raise self.error
        if not self.room:
            raise BlockingIOError
        count = min(len(data), self.room)
        self.room -= count
        self.taken += data[:count]
        return count

    def write_waiting(self, data):
        assert self.opened.wait(10)
        return self.write_nowait(data)

    def open(self):
        self.room = sys.maxsize
        self.opened.set()


@pytest.fixture
def gate():
    return Gate()


def test_while_there_is_room_a_line_is_written_at_once(gate):
    """When `write` returns the kernel has it: there is no thread, and a crash loses nothing."""
    spool, threads = Spool(-1, to=gate), threading.active_count()
    for number in range(100):
        spool.write(b"%d\n" % number)
    assert gate.taken == b"".join(b"%d\n" % number for number in range(100))
    assert threading.active_count() == threads
    assert spool.drain(0)


def test_what_waits_is_written_in_order(gate):
    """Half a line that the kernel took, its rest, and all that came meanwhile."""
    spool = Spool(-1, to=gate)
    gate.room = 70
    for number in range(100):
        spool.write(b"line %d\n" % number)
    assert not spool.drain(0)
    assert len(gate.taken) == 70
    gate.open()
    assert spool.drain(10)
    assert gate.taken == b"".join(b"line %d\n" % number for number in range(100))
    spool.write(b"after\n")
    assert gate.taken.endswith(b"after\n")


def test_what_does_not_fit_is_counted_and_announced_in_its_place(gate):
    """The buffer never holds more than its bound, and the announcement is where lines lack."""
    spool = Spool(-1, to=gate, bound=10 * len(LINE))
    gate.room = 0
    for _ in range(100):
        spool.write(LINE)
        assert len(spool._buffer) <= 10 * len(LINE)
    gate.open()
    assert spool.drain(10)
    spool.write(b"after\n")
    told = f"90 lines of the log were dropped: {NOBODY_READS}\n".encode()
    assert gate.taken == 10 * LINE + told + b"after\n"


def test_a_slow_reader_is_not_told_at_each_line(gate):
    """After a drop half of the buffer has to be free before a line waits again."""
    spool = Spool(-1, to=gate, bound=10 * len(LINE))
    gate.room = 0
    for _ in range(12):
        spool.write(LINE)
    del spool._buffer[: 2 * len(LINE)]
    spool.write(LINE)
    assert spool._lost == 3
    del spool._buffer[: 4 * len(LINE)]
    spool.write(LINE)
    assert spool._lost == 0
    gate.open()
    assert spool.drain(10)
    assert gate.taken.count(b"3 lines of the log were dropped") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_an_error_drops_lines_and_is_told_when_it_is_over(gate, number):
    """A full disk, a closed pipe: no exception; the next line that is written is after a word."""
    spool = Spool(-1, to=gate)
    spool.write(b"before\n")
    gate.error = OSError(number, os.strerror(number))
    for _ in range(3):
        assert spool.write(LINE) == len(LINE)
    gate.error = None
    spool.write(b"after\n")
    told = f"3 lines of the log were dropped: {os.strerror(number)}\n".encode()
    assert gate.taken == b"before\n" + told + b"after\n"


def test_an_error_while_lines_wait(gate):
    """What waited is dropped and counted; the announcement begins a line, if one was torn."""
    spool = Spool(-1, to=gate)
    gate.room = 3
    for _ in range(5):
        spool.write(LINE)
    gate.error = OSError(errno.EPIPE, "closed")
    gate.open()
    assert spool.drain(10)
    gate.error = None
    spool.write(b"after\n")
    assert gate.taken == LINE[:3] + b"\n5 lines of the log were dropped: closed\nafter\n"


def test_a_line_larger_than_the_buffer(gate):
    """Whatever its size, a write of its own waits alone, and is not torn."""
    spool = Spool(-1, to=gate, bound=100)
    gate.room = 10
    spool.write(b"x" * 1000 + b"\n")
    gate.open()
    assert spool.drain(10)
    assert gate.taken == b"x" * 1000 + b"\n"


def test_without_a_thread_to_be_had(gate, monkeypatch):
    """Lines are dropped, and announced."""
    spool = Spool(-1, to=gate)
    with monkeypatch.context() as patched:

        def refuse(*args):
            raise RuntimeError("can't start new thread")

        patched.setattr("_thread.start_new_thread", refuse)
        gate.room = 0
        spool.write(LINE)
    gate.open()
    spool.write(b"after\n")
    assert gate.taken.endswith(b"dropped: no thread can be started\nafter\n")


def test_a_forked_process_begins_anew(gate):
    """Its parent's lines are not written twice, and its parent's thread is not waited for."""
    spool = Spool(-1, to=gate)
    gate.room = 0
    spool.write(LINE)
    child = os.fork()
    if not child:
        gate.room = sys.maxsize
        spool.write(b"of the child\n")
        os._exit(gate.taken != b"of the child\n" or not spool.drain(0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.open()
    assert spool.drain(10)
    assert gate.taken == LINE


def test_an_announcement_looks_like_the_log():
    """A line of text, or an object of JSON."""
    assert b"[WARNING] 2 lines of the log were dropped: why\n" in announcement("text")(2, "why")
    found = json.loads(announcement("json")(1, "why"))
    assert (found["level"], found["message"]) == ("WARNING", "1 line of the log was dropped: why")


# -- real descriptors --------------------------------------------------------------------------


def a_pipe():
    return os.pipe()


def a_socket():
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def a_terminal():
    reader, terminal = pty.openpty()
    settings = termios.tcgetattr(terminal)
    settings[1] &= ~termios.OPOST  # line ends stay as they are
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    return reader, terminal


@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("make", [a_pipe, a_socket, a_terminal])
def test_what_nobody_reads_is_not_waited_for(monkeypatch, make, by_thread):
    """A pipe, a socket, a terminal: writes return, the flags are untouched, and all is in order."""
    if by_thread:  # as where it can't be opened once more
        real = os.open
        monkeypatch.setattr(
            os, "open", lambda path, *rest: real("/no/such" if "/proc" in path else path, *rest)
        )
    reader, writer = make()
    spool = Spool(writer)
    for number in range(5000):
        spool.write(b"%060d\n" % number)
    assert not spool.drain(0)
    assert os.get_blocking(writer)
    got = b""
    while len(got) < 5000 * 61:
        got += os.read(reader, 65536)
    assert spool.drain(10)
    assert got == b"".join(b"%060d\n" % number for number in range(5000))
    assert spool.release()
    os.close(reader)
    os.close(writer)


def test_a_terminal_that_is_stopped():
    """Ctrl-S holds the terminal, and not the program; Ctrl-Q lets it go on."""
    reader, terminal = a_terminal()
    spool = Spool(terminal)
    spool.write(b"before\n")
    termios.tcflow(terminal, termios.TCOOFF)
    spool.write(b"held\n")
    assert not spool.drain(0)
    assert os.get_blocking(terminal)
    termios.tcflow(terminal, termios.TCOON)
    assert spool.drain(10)
    got = b""
    while not got.endswith(b"held\n"):
        got += os.read(reader, 100)
    assert got == b"before\nheld\n"
    os.close(reader)
    os.close(terminal)


def test_a_closed_pipe():
    """Nobody is there to tell, and nothing happens."""
    reader, writer = os.pipe()
    spool = Spool(writer)
    os.close(reader)
    assert spool.write(LINE) == len(LINE)
    assert spool.drain(0)
    os.close(writer)


def test_a_file_is_written_at_its_own_place(tmp_path):
    """Two streams of a shell's ``> log 2>&1`` share one place in the file."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    one, two = Spool(fd), Spool(os.dup(fd))
    for spool in (one, two, one):
        spool.write(LINE)
    assert (tmp_path / "log").read_bytes() == 3 * LINE
    assert type(sink(fd)) is Direct
    os.close(two.fileno())
    os.close(fd)


def record(text):
    import logging

    return logging.makeLogRecord({"msg": text, "levelname": "INFO"})


def test_an_access_log_on_a_full_disk(capfd):
    """No traceback for each line, and no exception."""
    log = LogFile("/dev/full", "text")
    for _ in range(3):
        log.handle(record("a line"))
    log.close()
    assert capfd.readouterr() == ("", "")


def test_an_access_log_that_is_a_pipe_with_a_name(tmp_path):
    """It is opened though nobody reads it yet; who comes later finds what was written."""
    os.mkfifo(tmp_path / "fifo")
    log = LogFile(str(tmp_path / "fifo"), "text")
    log.handle(record("a line"))
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 1000).endswith(b"[INFO] a line\n")
    log.close()
    os.close(reader)


# -- the server's processes --------------------------------------------------------------------

APP = """
import sys, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/hang":
        time.sleep(600)
    if scope["path"] == "/print":
        print("p" * 60_000, file=sys.stderr)
        print("p" * 60_000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


class Unread:
    """A server whose outputs are two pipes that nobody reads, until `read`.

    Two, since long lines that go into one pipe from two sides get mixed up.
    """

    def __init__(self, tmp_path, options, source):
        (tmp_path / "an_app.py").write_text(source)
        self.address = str(tmp_path / "socket")
        pipes = [os.pipe() for _ in range(2)]
        self.readers = [reader for reader, _ in pipes]
        out, err = (writer for _, writer in pipes)
        command = [sys.executable, "-c", "from flowstream.cli import main; main()", "serve"]
        command += ["an_app", "-b", f"unix:{self.address}", "--access-log", "-", *options]
        self.process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=err)
        os.close(out)
        os.close(err)
        self.outputs = [b"", b""]
        self.threads = []

    def get(self, path="/"):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(10)
            client.connect(self.address)
            client.sendall(f"GET {path} HTTP/1.0\r\nhost: x\r\n\r\n".encode())
            with client.makefile("rb") as file:
                return file.read()[-5:]

    def read(self):
        for number in range(2):
            self.threads.append(threading.Thread(target=self._read, args=[number], daemon=True))
            self.threads[-1].start()

    def read_all(self):
        for thread in self.threads:
            thread.join(10)
        return self.outputs

    def _read(self, number):
        while data := os.read(self.readers[number], 65536):
            self.outputs[number] += data

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.read_all()
        for reader in self.readers:
            os.close(reader)


@pytest.fixture
def unread(tmp_path):
    """Start a server: ``unread("-w", "1")`` is an `Unread`."""
    started = []

    def start(*options, source=APP):
        started.append(Unread(tmp_path, options, source))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.mark.parametrize("options", [[], pytest.param(["-w", "1"], marks=pytest.mark.chaos)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_whose_output_nobody_reads(unread, eventually, options, number):
    """It answers, whatever it and its app write; and it ends when it is told to, with status 0."""
    server = unread(*options)
    eventually(lambda: server.get() == b"hello", "it answers", timeout=20)
    for _ in range(4):
        assert server.get("/print") == b"hello"
        assert server.get() == b"hello"
    server.process.send_signal(number)
    assert server.process.wait(15) == 0


def test_a_reader_that_comes_back(unread, eventually):
    """It gets what waited, is told how many lines were dropped, and has the last lines, too."""
    server = unread("--log-format", "json")
    eventually(lambda: server.get() == b"hello", "it answers", timeout=20)
    for _ in range(40):
        assert server.get("/print") == b"hello"
    server.read()
    for number in range(2):
        eventually(
            lambda number=number: b"of the log were dropped" in server.outputs[number],
            "the reader is told",
        )
    assert server.get("/last") == b"hello"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    out, err = server.read_all()
    lines = [line for line in [*err.splitlines(), *out.splitlines()] if line.startswith(b"{")]
    assert json.loads(lines[-1])["path"] == "/last"
    told = [json.loads(line)["message"] for line in lines if b"of the log w" in line]
    assert all(message.endswith(NOBODY_READS) for message in told)
    # Of the 40 on each stream, each was either read or counted.
    counted = sum(int(message.split()[0]) for message in told)
    assert (out + err).count(b"p" * 60_000) + counted >= 80


@pytest.mark.chaos
def test_a_worker_that_hangs_while_the_pipe_is_full(unread, eventually):
    """The supervisor is not held up by its own log: it replaces the worker."""
    server = unread("-w", "1", "--worker-timeout", "0.5")
    eventually(lambda: server.get() == b"hello", "it answers", timeout=20)
    for _ in range(3):
        server.get("/print")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.address)
        client.sendall(b"GET /hang HTTP/1.0\r\nhost: x\r\n\r\n")
        assert client.recv(1) == b""  # the worker is gone
    eventually(lambda: server.get() == b"hello", "another one answers", timeout=20)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0


@pytest.mark.parametrize("options", [[], pytest.param(["-w", "1"], marks=pytest.mark.chaos)])
def test_an_error_at_the_end_is_not_waited_for(unread, options):
    """The traceback of an app that does not load finds the pipe full: the status is 1."""
    source = "import sys\nprint('p' * 200_000, file=sys.stderr)\n1 / 0\n"
    assert unread(*options, source=source).process.wait(15) == 1
