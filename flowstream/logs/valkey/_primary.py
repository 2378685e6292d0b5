"""Find the server that takes writes, and connect to it.

Of several servers it is the one that says so. Sentinels know its address, and may be wrong for a
while: so the server itself is asked in any case.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from flowstream._errors import LogUnavailableError
from flowstream.logs.valkey import _server_facts as facts
from flowstream.logs.valkey._greeting import Greeting, RefusedError, greet, sort_error
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.logs.valkey._valkey_settings import Address, ValkeySettings

T = TypeVar("T")


class Primary:
    """Where the primary is.

    Args:
        settings: addresses and logins.
        seconds: how long to wait for each server.
    """

    def __init__(self, settings: ValkeySettings, seconds: float) -> None:
        self._settings = settings
        self._seconds = seconds
        self._order = list(settings.addresses)  # the one that knew last time comes first

    async def connect(self) -> tuple[Greeting, dict[str, str]]:
        """Connect to the primary; return the open connection, and its ``INFO``.

        Raises:
            LogUnavailableError: there is none now, or it can't be reached.
            RefusedError: none of the servers can be used.
        """
        if self._settings.service is None:
            return await self._first(self._order, self._enter)
        return await self._enter(await self._first(self._order, self._ask_sentinel))

    async def _first(
        self, addresses: Iterable[Address], ask: Callable[[Address], Awaitable[T]]
    ) -> T:
        """Return what the first server says that can be asked."""
        failures: list[LogUnavailableError | RefusedError] = []
        for address in list(addresses):
            try:
                answer = await ask(address)
            except (LogUnavailableError, RefusedError) as error:
                failures.append(error)
            else:
                self._order.remove(address)
                self._order.insert(0, address)
                return answer
        why = "; ".join(map(str, failures))
        if all(isinstance(failure, RefusedError) for failure in failures):
            raise RefusedError(why)
        raise LogUnavailableError(why)

    async def _enter(self, address: Address) -> tuple[Greeting, dict[str, str]]:
        """Connect to a server that must be the primary."""
        greeting = await greet(address, self._settings.login, self._seconds)
        try:
            return greeting, await self._look(greeting)
        except BaseException:
            await greeting.aclose()
            raise

    async def _look(self, greeting: Greeting) -> dict[str, str]:
        """Choose the database, and return the server's ``INFO``."""
        where = greeting.where
        if not facts.is_primary(greeting.hello):
            raise LogUnavailableError(f"{where}: the server is a replica")
        number = self._settings.database
        selected, info = await greeting.ask((b"SELECT", number), (b"INFO",))
        if isinstance(selected, ServerError) and selected.meaning is Meaning.FAULT:
            raise RefusedError(f"{where}: the server has no database {number}")
        for name, reply in (("SELECT", selected), ("INFO", info)):
            if isinstance(reply, ServerError):
                raise _refusal(where, name, reply)
        known = facts.read_info(info if isinstance(info, bytes) else b"")
        if known.get("loading", "0") != "0":
            raise LogUnavailableError(f"{where}: the server loads its data")
        return known

    async def _ask_sentinel(self, address: Address) -> Address:
        """Return the address that a sentinel knows of the primary."""
        service = self._settings.service or ""
        login = self._settings.sentinel_login
        greeting = await greet(address, login, self._seconds, sentinel=True)
        try:
            [found] = await greeting.ask((b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service))
        finally:
            await greeting.aclose()
        if found is None:
            raise RefusedError(f"{greeting.where}: this sentinel knows no service {service!r}")
        if isinstance(found, ServerError):
            raise _refusal(greeting.where, "SENTINEL", found)
        primary = facts.read_address(found)
        if primary is None:
            raise LogUnavailableError(f"{greeting.where}: the sentinel's answer makes no sense")
        return primary


def _refusal(where: str, name: str, error: ServerError) -> Exception:
    """Return the error for a command that a server refused, without the server's text.

    The text may repeat what was sent before, and that was the password.
    """
    if error.meaning is Meaning.FAULT:
        return LogUnavailableError(f"{where}: the server refused {name} ({error.code})")
    return sort_error(where, error)
