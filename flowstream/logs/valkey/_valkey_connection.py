"""One connection to a Valkey or Redis server.

::

    call ──► Conversation ──► writer task ──► stream    (a lone call: without the writer task)
    call ◄── Conversation ◄── reader task ◄── stream
                                watch task: asks PING when it is quiet

No caller waits while it writes: a write over TLS that is cancelled in the middle ruins the
connection, and callers are cancelled at any time. The writer task takes all that waits into one
write, so many callers at once cost little more than one. A call that finds nothing owed, without
TLS, is handed to the kernel at once; the writer task sends what the kernel did not take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from flowstream._clock import clock
from flowstream._errors import LogUnavailableError
from flowstream.limits import check_positive
from flowstream.logs.valkey._conversation import Conversation, PendingCall, Reply, Word
from flowstream.logs.valkey._plain_stream import PlainStream
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.tasks._flag import Flag

_WRITE_BYTES = 256 << 10
_READ_BYTES = 64 << 10
_TURNS = 3  # of the event loop, in which a reader gets what lies in its socket


@dataclass(frozen=True, slots=True)
class ValkeyTimeouts:
    """How long to wait for a server, in seconds.

    Raises:
        TypeError, ValueError: a value is not a number above 0.
    """

    start: float = 5.0
    """For the first connection of all, with everything that is asked over it; then it fails."""
    connect: float = 3.0
    """For one server to accept a connection, prove who it is, and say what it is."""
    reply: float = 10.0
    """For the oldest reply that is owed, from when the last one came. While parts of a large one
    come, it is not late."""
    silence: float = 1.0
    """Until a server that says nothing is asked whether it is there."""
    answer: float = 2.0
    """For it to say something then."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_positive(name, getattr(self, name), unit="seconds")


class ValkeyConnection:
    """A connection that is open, and the calls over it.

    Args:
        stream: what it goes over.
        where: the server's address, for messages.
        timeouts: how long to wait for the server.
        pushed: called in the event loop with each push, such as a message of a channel. It must
            not raise.

    Attributes:
        where: the server's address.
        lost: why nothing can be asked any more; None while it can.
        info: what the server said about itself (``INFO``), by name; see `ValkeyClient`.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        where: str,
        timeouts: ValkeyTimeouts,
        pushed: Callable[[list[Any]], None],
    ) -> None:
        self.where = where
        self.lost: str | None = None
        self.info: dict[str, str] = {}
        self._stream = stream
        self._timeouts = timeouts
        self._conversation = Conversation(pushed)
        self._heard = self._progress = clock.current_time()
        self._scope = trio.CancelScope()
        self._gone = Flag()
        self._unsent = trio.Event()
        self._rest = b""  # what the kernel did not take of a lone call
        self._writing = False
        self._entrance = trio.Lock()  # of callers that wait for room, in their order
        self._room = trio.Event()

    async def call(self, *command: Word) -> Reply:
        """Ask one command and **wait** for its reply.

        If much is owed already (4,096 replies, or 16 MiB of commands), it first waits for room.
        A caller may be cancelled at any moment: if the command was put, the server may do it.

        SUBSCRIBE and UNSUBSCRIBE must name channels, and return None once all are confirmed.

        Raises:
            ServerError: the server refused it, or failed.
            LogUnavailableError: the connection was lost; ``maybe`` says whether the server may have
                got the command.
            TypeError, ValueError: a word can't be written.
        """
        [result] = await self.call_many([command])
        if isinstance(result, ServerError):
            raise result
        return result

    async def call_many(self, commands: Sequence[Sequence[Word]]) -> list[Reply | ServerError]:
        """Ask commands in one write and **wait** for all replies; see `call`.

        No other caller's command comes between them. An error is returned in its place.
        """
        if not commands:
            await trio.lowlevel.checkpoint()
            return []
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.full:
            async with self._entrance:
                while self._conversation.full and self.lost is None:
                    await self._room.wait()
                call = self._put(commands)
        else:
            call = self._put(commands)
        return await self._results(call)

    async def call_confirmed(self, *command: Word, replicas: int, milliseconds: int) -> Reply:
        """Ask a command that writes, and **wait** until so many replicas have what it wrote.

        The command must write something in any case: for one that only reads, some servers count
        the replicas that have what this connection wrote before.

        Args:
            command: see `call`.
            replicas: how many replicas must confirm.
            milliseconds: how long to wait for them, less than 2,000: this connection hears nothing
                else meanwhile.

        Raises:
            ServerError: see `call`.
            LogUnavailableError: see `call`; or too few replicas confirmed: see `confirmed`.
        """
        results = await self.call_many([command, (b"WAIT", replicas, milliseconds)])
        return self.confirmed(results, replicas)

    def confirmed(self, results: Sequence[Reply | ServerError], replicas: int) -> Reply:
        """Return the reply to a command that writes, if the WAIT behind it found the replicas.

        Args:
            results: of the command, and of WAIT if `replicas` is more than 0.
            replicas: how many replicas must confirm.

        Raises:
            ServerError: the command failed.
            LogUnavailableError: fewer replicas confirmed, or WAIT failed: then its `ServerError` is
                the cause. ``maybe`` is true.
        """
        reply = results[0]
        if isinstance(reply, ServerError):
            raise reply
        if not replicas:
            return reply
        count = results[1]
        if isinstance(count, ServerError):
            raise LogUnavailableError(f"{self.where}: {count.sentence}", maybe=True) from count
        if count < replicas:
            raise LogUnavailableError(
                f"{self.where}: {count} of {replicas} replicas have confirmed in time", maybe=True
            )
        return reply

    @property
    def full(self) -> bool:
        """Whether a caller has to wait for room: see `call`."""
        return self._conversation.full or self._entrance.locked()

    async def wait_for_room(self) -> None:
        """**Wait** until there is room for another call, or the connection is lost."""
        async with self._entrance:
            while self._conversation.full and self.lost is None:
                await self._room.wait()

    def post(
        self, commands: Sequence[Sequence[Word]], answered: Callable[[PendingCall], object]
    ) -> None:
        """Ask commands without waiting, though there may be no room; see `call_many`.

        Args:
            commands: at least one.
            answered: called in the event loop, once, when `results_of` knows; perhaps before this
                returns. It must not raise.

        Raises:
            LogUnavailableError: the connection is lost; nothing was asked.
        """
        call = self._put(commands)
        if self.lost is None:
            call.answered = answered
        else:
            answered(call)

    def results_of(self, call: PendingCall) -> list[Reply | ServerError]:
        """Return what a call has got.

        Raises:
            LogUnavailableError: the connection was lost before it got all.
        """
        if call.owed:
            assert self.lost is not None
            raise LogUnavailableError(self.lost, maybe=self._conversation.was_sent(call))
        return call.results

    async def run(  # noqa: ASYNC114  # `ValkeyClient` starts it
        self, *, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Write and read until the connection is lost, or this is cancelled; then close it."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    nursery.start_soon(self._read)
                    task_status.started()
        finally:
            self.give_up("the log was closed")
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    def give_up(self, why: str) -> None:
        """Use this connection no more; all calls that are owed something fail at once.

        Args:
            why: for the message of their errors, behind the server's address.
        """
        if self.lost is not None:
            return
        self.lost = f"{self.where}: {why}"
        for call in self._conversation.abandon():
            self._wake(call)
        self._room.set()
        self._gone.set()
        self._scope.cancel()

    async def wait_lost(self) -> None:
        """**Wait** until nothing can be asked any more; see `lost`."""
        await self._gone.wait()

    def _put(self, commands: Sequence[Sequence[Word]]) -> PendingCall:
        if self.lost is not None:
            raise LogUnavailableError(self.lost)
        alone = not self._conversation.calls
        call = self._conversation.put(commands)
        if alone:
            self._progress = clock.current_time()
        if alone and not self._writing and isinstance(self._stream, PlainStream):
            self._send_nowait(self._stream)
        else:
            self._unsent.set()
        return call

    def _send_nowait(self, stream: PlainStream) -> None:
        data = self._conversation.take(_WRITE_BYTES)
        try:
            sent = stream.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.give_up(_broken(error))
            return
        if sent < len(data) or self._conversation.unsent:
            self._rest = data[sent:]
            self._writing = True
            self._unsent.set()

    async def _results(self, call: PendingCall) -> list[Reply | ServerError]:
        """**Wait** until the call has all its replies, or can't get them any more."""
        if call.owed and self.lost is None:
            task = trio.lowlevel.current_task()
            call.answered = lambda _: trio.lowlevel.reschedule(task)

            def leave(_: object) -> trio.lowlevel.Abort:
                call.answered = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(leave)
        return self.results_of(call)

    @staticmethod
    def _wake(call: PendingCall) -> None:
        answered, call.answered = call.answered, None
        if answered is not None:
            answered(call)

    async def _write(self) -> None:
        conversation = self._conversation
        try:
            while True:
                self._writing = False
                await self._unsent.wait()
                self._unsent = trio.Event()
                self._writing = True
                while data := self._rest or conversation.take(_WRITE_BYTES):
                    self._rest = b""
                    await self._stream.send_all(data)
                    if len(data) == _WRITE_BYTES:
                        # It takes what it is sent. A small write proves nothing: the kernel has it.
                        self._heard = self._progress = clock.current_time()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.give_up(_broken(error))

    async def _read(self) -> None:
        conversation = self._conversation
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                self._heard = clock.current_time()
                for call in conversation.receive(data):
                    self._progress = self._heard
                    self._look(call.results)
                    self._wake(call)
                if conversation.amid:
                    self._progress = self._heard
                if conversation.fault is not None:
                    self.give_up(conversation.fault)
                    return
                if self._entrance.locked() and not conversation.full:
                    room, self._room = self._room, trio.Event()
                    room.set()
            self.give_up("the server closed the connection")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.give_up(_broken(error))

    def _look(self, results: list[Any]) -> None:
        """Give up if the server is not any more what it was."""
        for result in results:
            if isinstance(result, ServerError) and result.meaning is Meaning.ELSEWHERE:
                self.give_up(result.sentence)

    async def _watch(self) -> None:
        """Ask PING when the server is silent, and give up if it says nothing then."""
        times = self._timeouts
        ping: PendingCall | None = None
        while self.lost is None:
            now = clock.current_time()
            if ping is not None and not ping.owed:
                ping = None
            quiet = self._heard + times.silence
            if ping is None and now >= quiet:
                ping = self._put([(b"PING",)])
            due = quiet if ping is None else quiet + times.answer
            if ping is not None and now >= due:
                self.give_up(f"the server says nothing for {times.silence + times.answer:g} s")
                return
            if self._conversation.calls:
                owed = self._progress + times.reply
                if now >= owed:
                    self.give_up(f"the server owes a reply for {times.reply:g} s")
                    return
                due = min(due, owed)
            with trio.move_on_at(due) as late:
                if ping is None:
                    await trio.sleep_forever()
                else:
                    with suppress(LogUnavailableError):
                        await self._results(ping)
            if late.cancelled_caught:
                # If it was this process that stood still, the reader takes first what has come.
                for _ in range(_TURNS):
                    await trio.lowlevel.checkpoint()


def _broken(error: BaseException) -> str:
    cause = error.__cause__
    return f"the connection broke ({cause})" if cause is not None else "the connection broke"
