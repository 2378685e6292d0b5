"""Where a log's database is: the DSN, read once, and the servers that it names.

A DSN holds a password. So nothing here puts the DSN itself into a text: errors name the server, the
port and the database (`PostgresDSN.where`), and an error about the DSN does not quote it.

libpq looks names up in a way that blocks. So each host is looked up here, by Trio, and libpq is
given ``hostaddr`` beside ``host``, which it still needs for certificates and the password file.
Everything else in the DSN is libpq's: ``sslmode``, ``passfile``, ``service`` and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Used unless the DSN says otherwise. libpq would ask Kerberos first, whose calls block.
_DEFAULTS = {
    "application_name": "flowstream",
    "gssencmode": "disable",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
_PORT = "5432"

_UNREADABLE = (
    "the DSN of the database can't be read: it is postgresql://user@host/database, with special "
    'characters as %XX, or "host=... dbname=...", and a port is a number'
)


class PostgresDSN:
    """A DSN. Its repr names the server, never a secret.

    Args:
        dsn: ``postgresql://user@host/database`` or ``host=… dbname=…``, as libpq takes it.

    Raises:
        TypeError, ValueError: it is none; the message does not quote it.

    Attributes:
        where: the server, the port and the database, for errors.
    """

    __slots__ = ("_options", "where")

    def __init__(self, dsn: str) -> None:
        if not isinstance(dsn, str):
            raise TypeError(f"a DSN must be a str, not {type(dsn).__name__}")
        try:
            given = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
        except (psycopg.Error, UnicodeError):
            given = None
        if given is None or not _is_clear(dsn):
            # Outside of the handler: the error that is left behind quotes the DSN.
            raise ValueError(_UNREADABLE)
        given.pop("client_encoding", None)
        self._options: dict[str, str] = {**_DEFAULTS, **given, "client_encoding": "UTF8"}
        found = list(self._servers())
        if not all(map(_is_server, found)) or "://" in self._option("dbname"):
            raise ValueError(_UNREADABLE)
        servers = ", ".join(map(_server, found))
        if "," in servers:  # after a failover the other one is the one to write to
            self._options.setdefault("target_session_attrs", "read-write")
        self.where: str = f"{servers}/{self._option('dbname') or self._option('user')}"

    def __repr__(self) -> str:
        return f"<PostgresDSN {self.where}>"

    def conninfo(self) -> str:
        """Return it as libpq takes it, with its secrets."""
        return make_conninfo(**{key: value for key, value in self._options.items() if value})

    async def attempts(self) -> list[bytes]:
        """**Look up** the hosts, and return what to connect with: one for each address, in order.

        Raises:
            OSError: none of the hosts has an address.
        """
        found: list[bytes] = []
        failure: OSError | None = None
        for server in self._servers():
            try:
                addresses = await _addresses(server)
            except OSError as error:
                failure = error
                continue
            for address in addresses:
                one = {**self._options, **server}
                if address is not None:
                    one["hostaddr"] = address
                said = {key: value for key, value in one.items() if value}
                found.append(make_conninfo(**said).encode())
        if not found:
            raise failure or OSError("the DSN names no host")
        await trio.lowlevel.checkpoint()
        return found

    def _servers(self) -> Iterator[dict[str, str]]:
        """Yield host, address and port of each server. libpq takes lists of them, with commas."""
        hosts = self._option("host").split(",")
        addresses = self._option("hostaddr").split(",")
        ports = self._option("port").split(",")
        for place in range(max(len(hosts), len(addresses))):
            yield {
                "host": hosts[place] if place < len(hosts) else "",
                "hostaddr": addresses[place] if place < len(addresses) else "",
                "port": ports[place if len(ports) > 1 and place < len(ports) else 0] or _PORT,
            }

    def _option(self, key: str) -> str:
        """Return what the DSN says, or the environment (``PGHOST`` and so on), or ""."""
        if key in self._options:
            return self._options[key]
        for option in pq.Conninfo.get_defaults():
            if option.keyword == key.encode() and option.val is not None:
                return option.val.decode()
        return ""


def _is_clear(dsn: str) -> bool:
    """Return whether no part of a URL's password can be taken for its host or its database.

    libpq ends the password at the first "@", and a URL's host at the first "/".
    """
    scheme, _, rest = dsn.partition("://")
    if scheme not in ("postgres", "postgresql"):
        return True
    authority, _, path = rest.partition("?")[0].partition("/")
    return authority.count("@") <= 1 and "@" not in path


def _is_server(server: Mapping[str, str]) -> bool:
    """Return whether a host and a port can be some: a mistaken DSN may have a password there."""
    host, port = server["host"], server["port"]
    is_host = host.startswith(("/", "@")) or not any(one in host for one in "@/ ")
    return is_host and port.isascii() and port.isdecimal()


def _server(server: Mapping[str, str]) -> str:
    host = server["host"] or server["hostaddr"] or "a local socket"
    return f"{host}:{server['port']}"


async def _addresses(server: Mapping[str, str]) -> list[str | None]:
    """Return the addresses of a host; [None] if there is nothing to look up."""
    host = server["host"]
    if server["hostaddr"] or not host or host.startswith(("/", "@")):
        return [None]
    try:
        return [str(ip_address(host))]
    except ValueError:
        found = await trio.socket.getaddrinfo(host, server["port"], type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))
