"""Where a Valkey or Redis server is, and how to log in: what its URL says.

::

    valkey://user:password@host:6379/0              one server; redis:// is the same
    valkeys://host/0?ssl_ca_certs=/etc/ca.pem       with TLS; rediss:// is the same
    valkey://host1,host2:6380/0                     several: the one that is the primary
    valkey+sentinel://host1,host2/service/0         sentinels, who know which one that is

Passwords never come out again: not in the text of an error, nor in the ``repr`` of an object here.
They are kept as bytes, because an error about a text that can't be encoded holds that text.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote_to_bytes

Address: TypeAlias = tuple[str, int]

SERVER_PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES = {
    f"{name}{'s' if tls else ''}{'+sentinel' if sentinel else ''}": (tls, sentinel)
    for name in ("valkey", "redis")
    for tls in (False, True)
    for sentinel in (False, True)
}
_FORM = "valkey://user:password@host:6379/0"
_SENTINEL_FORM = "valkey+sentinel://user:password@host1:26379,host2:26379/service/0"
_ENCODE = "write / as %2F, ? as %3F, # as %23, @ as %40 and % as %25 in a user name or a password"
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_UNVERIFIED = {"ssl_cert_reqs", "ssl_check_hostname"}


@dataclass(frozen=True, slots=True)
class ServerLogin:
    """How to log in to servers of one kind.

    Attributes:
        username: the ACL user; None for ``default``.
        password: its password; None to log in without.
        tls: what certificates are verified with; None for a connection without TLS.
    """

    username: bytes | None = field(default=None, repr=False)
    password: bytes | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def words(self) -> tuple[bytes, ...]:
        """What follows on ``HELLO 3``."""
        if self.username is None and self.password is None:
            return ()
        return b"AUTH", self.username or b"default", self.password or b""


@dataclass(frozen=True, slots=True)
class ValkeySettings:
    """Where the servers are, and how to log in to them.

    Attributes:
        addresses: hosts and ports: of the servers, or of the sentinels if there is a `service`.
        login: for the servers.
        database: the number of the database.
        service: the name under which the sentinels know the servers; None without sentinels.
        sentinel_login: for the sentinels.
        options: the other parameters of the URL, which were asked for.
    """

    addresses: tuple[Address, ...]
    login: ServerLogin = field(default_factory=ServerLogin)
    database: int = 0
    service: str | None = None
    sentinel_login: ServerLogin = field(default_factory=ServerLogin)
    options: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        sentinel_ssl_context: ssl.SSLContext | None = None,
        options: Collection[str] = (),
    ) -> ValkeySettings:
        """Return what a URL says.

        These parameters may follow it, behind a question mark: ``ssl_ca_certs``, ``ssl_certfile``,
        ``ssl_keyfile`` (paths of PEM files), ``sentinel_username``, ``sentinel_password``,
        ``sentinel_ssl`` (``true`` or ``false``; otherwise the sentinels have TLS if the servers
        have), and ``sentinel_ssl_ca_certs``, ``sentinel_ssl_certfile``, ``sentinel_ssl_keyfile``
        (otherwise those of the servers).

        Args:
            url: see above. User name and password are percent-encoded.
            ssl_context: what to verify the servers with, instead of the files.
            sentinel_ssl_context: the same for the sentinels; None for that of the servers.
            options: names of further parameters, for the caller to read.

        Raises:
            TypeError, ValueError: the URL has another form. The message repeats no part of it that
                may be a secret.
        """
        if not isinstance(url, str):
            raise TypeError(f"the URL of a server is a str, not {type(url).__name__}: {_FORM}")
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() not in _SCHEMES:
            raise ValueError(f"the URL of a server begins with {', '.join(_SCHEMES)}: {_FORM}")
        if not url.isprintable() or " " in url:
            raise ValueError(f"the URL has a space or a control character in it: {_ENCODE}")
        tls, sentinel = _SCHEMES[scheme.lower()]
        if "#" in rest:
            raise ValueError(f"the URL of a server has no #fragment: {_ENCODE}")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        userinfo, _, hosts = authority.rpartition("@")
        given = _parameters(query, sentinel, options)
        service, database = _path(path, given.pop("db", ""), sentinel)
        username, password = _userinfo(userinfo)
        context = _context(tls, given, "", ssl_context)
        inner = ServerLogin(username, password, context)
        outer = ServerLogin()
        if sentinel:
            outer = _sentinel_login(given, tls, context, sentinel_ssl_context)
        elif sentinel_ssl_context is not None:
            raise ValueError(f"sentinel_ssl_context is for sentinels: {_SENTINEL_FORM}")
        default = SENTINEL_PORT if sentinel else SERVER_PORT
        addresses = tuple(_address(host, default) for host in hosts.split(","))
        return cls(addresses, inner, database, service, outer, given)


def written(address: Address) -> str:
    """Return an address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parameters(query: str, sentinel: bool, options: Collection[str]) -> dict[str, str]:
    """Return the parameters behind the question mark by name. Their values may be secrets."""
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    found = dict(pairs)
    known = {"db", *_TLS_FILES, *options}
    if sentinel:
        known |= {"sentinel_username", "sentinel_password", "sentinel_ssl"}
        known |= {f"sentinel_{name}" for name in _TLS_FILES}
    if _UNVERIFIED & found.keys():
        raise ValueError(
            "certificates are always verified: give your own authority's as ssl_ca_certs, or an "
            "ssl.SSLContext as ssl_context"
        )
    if found.keys() - known:
        raise ValueError(
            "the URL has a parameter that is not known here, or a ? in its password; known are "
            f"{', '.join(sorted(known))}; {_ENCODE}"
        )
    if len(found) < len(pairs):
        raise ValueError("the URL has the same parameter twice")
    return found


def _path(path: str, number: str, sentinel: bool) -> tuple[str | None, int]:
    """Return the sentinels' service, and the number of the database."""
    if "@" in path:  # so the host was no host
        raise ValueError(f"the URL has a / in front of its @: {_ENCODE}")
    parts = path.split("/")
    service = None
    if sentinel:
        service = unquote_to_bytes(parts.pop(0)).decode(errors="replace")
        if not service:
            raise ValueError(f"the URL of sentinels names the service: {_SENTINEL_FORM}")
    if len(parts) > 1 or (number and "".join(parts)):
        raise ValueError(f"the URL has more than a database's number behind its host: {_ENCODE}")
    number = number or "".join(parts) or "0"
    if not (number.isascii() and number.isdecimal() and len(number) < 10):
        raise ValueError(f"a database is given by its number, behind the host: {_FORM}; {_ENCODE}")
    return service, int(number)


def _userinfo(text: str) -> tuple[bytes | None, bytes | None]:
    if not text:
        return None, None
    try:
        user, colon, password = text.encode().partition(b":")
    except UnicodeEncodeError:
        raise ValueError(f"the URL has characters that are not Unicode: {_ENCODE}") from None
    return unquote_to_bytes(user) or None, unquote_to_bytes(password) if colon else None


def _address(text: str, default: int) -> Address:
    """Return the host and the port of ``host``, ``host:port``, ``[::1]`` or ``[::1]:port``."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        host = host if bracket else ""
        separator, port = port[:1], port[1:]
    else:
        host, separator, port = text.partition(":")
    wrong = ValueError(f"the URL names no host, or its port is no number: {_FORM}; {_ENCODE}")
    if not host or set(host) & set("[]%@\\") or separator not in ("", ":"):
        raise wrong
    if not separator:
        return host, default
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        raise wrong
    return host, int(port)


def _sentinel_login(
    given: dict[str, str],
    tls: bool,
    servers: ssl.SSLContext | None,
    context: ssl.SSLContext | None,
) -> ServerLogin:
    wanted = given.pop("sentinel_ssl", "true" if tls or context else "false")
    if wanted not in ("true", "false"):
        raise ValueError("sentinel_ssl is true or false")
    own = _context(wanted == "true", given, "sentinel_", context, servers)
    username = given.pop("sentinel_username", "").encode("utf-8", "surrogateescape")
    password = given.pop("sentinel_password", None)
    secret = None if password is None else password.encode("utf-8", "surrogateescape")
    return ServerLogin(username or None, secret, own)


def _context(
    tls: bool,
    given: dict[str, str],
    prefix: str,
    context: ssl.SSLContext | None,
    otherwise: ssl.SSLContext | None = None,
) -> ssl.SSLContext | None:
    """Return the context of the files that are `given`; `context` and `otherwise` stand for them.

    Raises:
        ValueError: there are files and a context, or a file can't be read.
    """
    name = f"{prefix}ssl_context"
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext, not {type(context).__name__}")
    files = {file: given.pop(f"{prefix}{file}", None) for file in _TLS_FILES}
    if not tls:
        if context is not None or any(files.values()):
            raise ValueError("certificates are for TLS: write valkeys:// or rediss:// in the URL")
        return None
    if context is not None and any(files.values()):
        raise ValueError(f"give {name} or the files of certificates in the URL, not both")
    if context is not None or (otherwise is not None and not any(files.values())):
        return context or otherwise
    ca, certificate, key = files.values()
    if key and not certificate:
        raise ValueError(f"{prefix}ssl_keyfile is the key of {prefix}ssl_certfile: give both")
    try:
        made = ssl.create_default_context(cafile=ca or None)
        if certificate:
            # Without a function OpenSSL would ask at the terminal for the password of a key.
            made.load_cert_chain(certificate, key or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"a file of {prefix}ssl_ca_certs, {prefix}ssl_certfile or {prefix}ssl_keyfile can't be "
            f"read ({error}): these are PEM files, and a key in them has no password"
        ) from None
    return made


def _no_password() -> str:
    return ""
