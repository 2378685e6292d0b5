"""A server under fire, and what has to hold of it whatever its clients do.

It runs on a clock that jumps: a client that waits for a timeout costs no time. It listens on Unix
sockets, which are cheap, and on TCP, where there is RST; on each in the clear and with TLS. Sockets
in memory would be cheaper by little, and pass by all that the server does with a descriptor.
"""

import contextlib
import itertools
import logging
import os
import re
import resource
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import trio
import trio.testing
from trio.testing import MockClock

import flowstream
from flowstream.server import _serving, streaming_config
from flowstream.server._connections import Connections
from fuzzing.apps import BrokenAppError, app
from fuzzing.client import Client
from fuzzing.conversation import Conversation, Send, shrunk
from fuzzing.websockets import MOST

BATCH = 250
"""Conversations at once."""

MEMORY = 32 << 20
"""Bytes that a batch of them may take at most."""

CONTROL = b"GET /control HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# What is printed, and four quoted parts of it, as `FORMAT` of the access log has them.
_PRINTED = r'[^"\x00-\x1f\x7f-\x9f]*'
_LINE = re.compile(rf'{_PRINTED}(?:"{_PRINTED}"{_PRINTED}){{4}}')


class Watch(logging.Handler):
    """What the server logs, as far as nobody should be able to make it log that."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.faults = []

    def emit(self, record):
        """Look at a record."""
        error = record.exc_info[1] if record.exc_info else None
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, BrokenAppError):
            return
        text = record.getMessage()
        if error is not None or record.levelno >= logging.ERROR:
            self.faults.append(logging.Formatter().format(record))
        elif "a connection was closed" in text or "a stream was reset" in text:
            self.faults.append(f"a library has tripped: {text}")
        elif not text.isprintable():
            self.faults.append(f"a line of the log that a client has made: {text!r}")

    def emit_access(self, record):
        """Look at a line of the access log: one line, with its four quoted parts."""
        text = record.getMessage()
        if not text.isprintable() or not _LINE.fullmatch(text):
            self.faults.append(f"a line of the access log that a client has made: {text!r}")


def count_tasks(task):
    """Return how many tasks there are below this one."""
    below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return len(below) + sum(map(count_tasks, below))


def count_descriptors():
    """Return how many descriptors of sockets this process has; 0 where that can't be told."""
    folder, count = "/proc/self/fd", 0
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with contextlib.suppress(OSError):  # that of the listing itself
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


class Peak:
    """How much memory this process took at most, since this was made."""

    def __init__(self):
        try:
            with open("/proc/self/clear_refs", "w") as peak:
                peak.write("5")
        except OSError:  # elsewhere than on Linux: the highest of all times
            pass
        self._start = self._now()

    def _now(self):
        try:
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) << 10 for line in status if "VmHWM" in line)
        except (OSError, StopIteration):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def taken(self):
        """Return by how many bytes it grew meanwhile."""
        return self._now() - self._start


@dataclass
class Places:
    """Where a server listens.

    Attributes:
        unix, unix_tls, tcp, tcp_tls: addresses.
    """

    unix: str
    unix_tls: str
    tcp: object
    tcp_tls: object

    def of(self, said):
        """Return the address that a conversation is to be had at."""
        name = ("tcp" if said.tcp else "unix") + ("" if said.tls is None else "_tls")
        return getattr(self, name)


class Fuzzed:
    """A server under fire.

    Args:
        places: what clients connect to.
        watch: what listens to its log.
        connections: its open connections.
        task: in which it runs.
        key_log: a file for secrets of TLS.
    """

    def __init__(self, places, watch, connections, task, key_log):
        self._places = places
        self._watch = watch
        self._connections = connections
        self._task = task
        self._key_log = key_log
        self._tasks = count_tasks(task)
        self._descriptors = count_descriptors()

    async def take(self, conversations):
        """Have these conversations all at once; raise AssertionError if it did not go well."""
        faults = []
        peak = Peak()

        async def have(said):
            if fault := await Client(said, self._places.of(said), self._key_log).converse():
                faults.append(f"{said.name}: {fault}")

        async with trio.open_nursery() as nursery:
            for said in conversations:
                nursery.start_soon(have, said)
            nursery.start_soon(self._control)
        taken = peak.taken()
        assert not faults, "\n".join(faults[:3])
        await self.settle()

        assert taken < MEMORY, f"{taken >> 20} MiB are taken"

    async def _control(self):
        """Ask while the others are at it, and see that it is answered."""
        for moment in (0.5, 3, 10):
            await trio.sleep(moment)
            control = Conversation("control", (Send(CONTROL),), "wait", answers=1)
            start = trio.current_time()
            fault = await Client(control, self._places.unix).converse()
            assert not fault, f"a well-behaved client: {fault}"
            waited = trio.current_time() - start
            assert waited < 1, f"a well-behaved client is answered after {waited} seconds"

    async def settle(self):
        """See that all is as it was before."""
        with trio.move_on_after(60):
            while len(self._connections) or count_tasks(self._task) > self._tasks:  # noqa: ASYNC110
                await trio.sleep(0.5)
        left = len(self._connections)
        assert not left, f"{left} connections are left"
        assert count_tasks(self._task) == self._tasks, "tasks are left"
        faults = "\n".join(self._watch.faults[:3])
        assert not faults, f"the log says:\n{faults}"
        left = count_descriptors() - self._descriptors
        assert left <= 0, f"{left} descriptors are left"
        await self._control_now()

    async def _control_now(self):
        control = Conversation("control", (Send(CONTROL),), "wait", answers=1)
        fault = await Client(control, self._places.unix).converse()
        assert not fault, f"afterwards a well-behaved client: {fault}"


@contextlib.asynccontextmanager
async def fuzzed(monkeypatch, folder, certificate, serve=flowstream.serve, *, access=True):
    """Run a server for a while.

    Args:
        monkeypatch: pytest's.
        folder: for its sockets.
        certificate: the settings with which it speaks TLS.
        serve: what serves.
        access: whether it writes an access log.
    """
    made = []

    def connections(*arguments):
        made.append(Connections(*arguments))
        return made[-1]

    monkeypatch.setattr(_serving, "Connections", connections)
    watch = Watch()
    accesses = logging.Handler()
    accesses.emit = watch.emit_access
    own, theirs = logging.getLogger("flowstream"), logging.getLogger("tests.fuzz")
    log = logging.getLogger("tests.fuzz_access")
    theirs.propagate = log.propagate = False
    theirs.setLevel(logging.INFO)
    log.setLevel(logging.INFO)
    plain, secure = f"{folder}/plain", f"{folder}/secure"
    config = streaming_config(
        bind=[f"unix:{secure}", "127.0.0.1:0"],
        insecure_bind=[f"unix:{plain}", "127.0.0.1:0"],
        errorlog=theirs,
        accesslog=log if access else None,
        write_timeout=4,
        body_timeout=5,
        keep_alive_timeout=5,
        ssl_handshake_timeout=5,
        websocket_max_message_size=MOST,
        h2c=True,
        **certificate,
    )
    handlers = ((own, watch), (theirs, watch), (log, accesses))
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        async with trio.open_nursery() as nursery:
            urls = await nursery.start(partial(serve, app, config))
            await trio.testing.wait_all_tasks_blocked()
            (task,) = nursery.child_tasks
            ports = [urlsplit(url) for url in urls if "127.0.0.1" in url]
            tcp = {url.scheme: (url.hostname, url.port) for url in ports}
            places = Places(plain, secure, tcp["http"], tcp["https"])
            yield Fuzzed(places, watch, made[-1] if made else (), task, f"{folder}/keys")
            nursery.cancel_scope.cancel()
    finally:
        for logger, handler in handlers:
            logger.removeHandler(handler)


async def outcome(start, *batches):
    """Have one batch after the other with one server; return what went wrong and with which."""
    failure, at = None, None
    try:
        async with start() as server:
            for at in batches:
                await server.take(at)
    except* Exception as group:  # noqa: BLE001  # returned
        failure = group
    return failure, at


async def bombard(start, conversations):
    """Have the conversations; if it did not go well, find out which it was.

    Args:
        start: what runs a server.
        conversations: an iterable of them.

    Raises:
        AssertionError: which one it was, as small as it can be made quickly.
    """
    failure, batch = await outcome(start, *in_batches(conversations))
    if failure is None:
        return
    for said in batch:
        if (alone := (await outcome(start, [said]))[0]) is None:
            continue
        small = await shrunk(said, partial(fails, start), tries=60)
        raise AssertionError(f"{reason(alone)}\nthis alone does it: {small}") from alone
    raise AssertionError(
        f"{reason(failure)}\nonly together: {batch[0].name} to {batch[-1].name}"
    ) from failure


async def fails(start, said):
    """Return whether this conversation alone does harm."""
    return (await outcome(start, [said]))[0] is not None


def in_batches(conversations, size=BATCH):
    """Yield lists of so many conversations, and one of the rest."""
    conversations = iter(conversations)
    while batch := list(itertools.islice(conversations, size)):
        yield batch


def run(main):
    """Run a Trio program on a clock that jumps."""
    trio.run(main, clock=MockClock(autojump_threshold=0))


def reason(failure):
    """Return what went wrong, in a few words."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    text = f"{type(failure).__name__}: {failure}"
    return text if len(text) < 3000 else f"{text[:1000]} … {text[-2000:]}"
