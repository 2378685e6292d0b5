"""The first words with a server: connect, TLS, ``HELLO``. No task runs yet.

A sentinel is asked no more than this, and one thing behind it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from flowstream._errors import LogUnavailableError
from flowstream.logs.valkey import _server_facts as facts
from flowstream.logs.valkey._conversation import Conversation, Reply, Word
from flowstream.logs.valkey._plain_stream import PlainStream
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.logs.valkey._valkey_settings import Address, ServerLogin, written

_CLIENT_NAME = b"flowstream"
_READ_BYTES = 16 << 10
_WRITE_BYTES = 256 << 10


class RefusedError(Exception):
    """A server can't be used until somebody changes something. The text says what; no secret."""


def sort_error(where: str, error: ServerError) -> Exception:
    """Return a server's error as one that passes, or one that does not."""
    if error.meaning is Meaning.REFUSED:
        return RefusedError(f"{where}: {error.sentence}")
    return error.unavailable(where)


class Greeting:
    """A server, and an open connection to it over which nobody talks yet.

    Attributes:
        where: its address.
        stream: the connection. Who has this closes it.
        hello: what it said, see `flowstream.logs.valkey._server_facts.read_hello`.
    """

    def __init__(self, where: str, stream: trio.abc.Stream, seconds: float) -> None:
        self.where = where
        self.stream = stream
        self.hello: dict[str, str] = {}
        self._seconds = seconds
        self._conversation = Conversation(_unheard)

    async def ask(self, *commands: Sequence[Word]) -> list[Reply | ServerError]:
        """Ask commands in one write, and **wait** for all replies.

        Raises:
            LogUnavailableError: the connection was lost, or the server is slow.
        """
        call = self._conversation.put(commands)
        plain = not isinstance(self.stream, trio.SSLStream)
        hint = "; if it asks for TLS, write valkeys:// or rediss:// in the URL" if plain else ""
        with _sorted_faults(self.where, self._seconds, broken=hint):
            await self.stream.send_all(self._conversation.take(_WRITE_BYTES))
            while call.owed:
                data = await self.stream.receive_some(_READ_BYTES)
                if not data:
                    message = f"{self.where}: the server closed the connection{hint}"
                    raise LogUnavailableError(message)
                self._conversation.receive(data)
                if self._conversation.fault is not None:
                    raise LogUnavailableError(f"{self.where}: {self._conversation.fault}")
        return call.results

    async def aclose(self) -> None:
        """Close the connection at once."""
        await _close(self.stream)


async def greet(
    address: Address, login: ServerLogin, seconds: float, *, sentinel: bool = False
) -> Greeting:
    """Connect to a server and log in.

    Args:
        address: its host and port.
        login: how to log in.
        seconds: how long to wait for the connection, and for each answer.
        sentinel: whether it must be a sentinel.

    Raises:
        LogUnavailableError: it can't be reached, or is slow.
        RefusedError: it does not let us in, or is not what can be used.
    """
    where = written(address)
    with _sorted_faults(where, seconds):
        connected = await trio.open_tcp_stream(*address)
    stream: trio.abc.Stream
    stream = PlainStream(connected) if login.tls is None else connected
    try:
        if login.tls is not None:
            with _sorted_faults(where, seconds, slow="; if it has no TLS, write valkey://"):
                secure = trio.SSLStream(connected, login.tls, server_hostname=address[0])
                stream = secure
                await secure.do_handshake()
        greeting = Greeting(where, stream, seconds)
        [hello] = await greeting.ask((b"HELLO", 3, *login.words, b"SETNAME", _CLIENT_NAME))
        greeting.hello = _heard(where, hello)
        unfit = facts.why_unfit(greeting.hello, sentinel=sentinel)
        if unfit is not None:
            raise RefusedError(f"{where}: {unfit}")
    except BaseException:
        with trio.move_on_after(1, shield=True):
            await trio.aclose_forcefully(stream)
        raise
    return greeting


async def _close(stream: trio.abc.Stream) -> None:
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


@contextmanager
def _sorted_faults(
    where: str, seconds: float, *, slow: str = "", broken: str = ""
) -> Iterator[None]:
    """Run the block for so many seconds; raise what fails in it as one of two errors.

    Args:
        where: the server's address.
        seconds: how long it may take.
        slow: what to add when it takes longer.
        broken: what to add when the connection breaks.

    Raises:
        LogUnavailableError: this may pass.
        RefusedError: this will not, until somebody changes something.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise _broken(where, error.__cause__, broken) from None
    except trio.TooSlowError:
        message = f"{where}: the server does not answer for {seconds:g} s{slow}"
        raise LogUnavailableError(message) from None
    except OSError as error:
        raise LogUnavailableError(f"{where}: no connection ({_reason(error)})") from None
    except UnicodeError:
        raise RefusedError(f"{where}: this is no name of a host") from None


def _heard(where: str, hello: Reply | ServerError) -> dict[str, str]:
    """Return what ``HELLO`` said.

    Raises:
        LogUnavailableError, RefusedError: the server did not say hello.
    """
    if not isinstance(hello, ServerError):
        return facts.read_hello(hello)
    if "max number of clients" in hello.text:
        raise LogUnavailableError(f"{where}: the server has as many clients as its maxclients")
    sentence = f"{where}: {facts.why_not_greeted(hello)}"
    passing = hello.meaning in (Meaning.ELSEWHERE, Meaning.LATER, Meaning.FULL)
    if passing and hello.code != "NOAUTH":
        raise LogUnavailableError(sentence)
    raise RefusedError(sentence)


def _broken(where: str, cause: BaseException | None, hint: str) -> Exception:
    """Return the error for a connection that broke while the server was greeted."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RefusedError(
            f"{where}: the server's certificate was not accepted ({cause.verify_message}): give "
            "its authority's as ssl_ca_certs, and the name that is in it as the host"
        )
    if isinstance(cause, ssl.SSLEOFError) or not isinstance(cause, ssl.SSLError):
        return LogUnavailableError(f"{where}: the connection broke{hint}")
    if cause.reason == "WRONG_VERSION_NUMBER":
        return RefusedError(f"{where}: the server has no TLS on this port: write valkey://")
    return RefusedError(f"{where}: TLS failed ({cause.reason}): does it ask for ssl_certfile?")


def _reason(error: OSError) -> str:
    """Return why a connection failed, in few words; of all that was tried, why the first did."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    if found.errno is not None and found.errno > 0:  # one of a name server is negative
        return os.strerror(found.errno)
    return found.strerror or str(found)


def _unheard(push: list[Any]) -> None:
    """Hear a push while nothing is subscribed to, and do nothing about it."""
