"""Trusted proxies: find the client's address, and whether it uses TLS, behind a proxy.

A proxy says so in two headers, but anybody can write these. So they are read only if the
connection comes from a trusted proxy. They mean what they mean under uvicorn:

* ``X-Forwarded-For`` has one address for each proxy on the way, the client's first. Each proxy adds
  on the right the address that connected to it. So the list is read from the right: the first
  address that is not a trusted proxy's is the client's. Anything to the left of it may be made up.
* ``X-Forwarded-Proto`` is ``http``, ``https``, ``ws`` or ``wss``.

An application may take whatever it gets for an address, so it never gets anything else. At text
that is not an address the search ends, and the last address found counts, as with nginx's
``real_ip_recursive``.

The answer is known before the scope is made, so nothing is changed or copied later.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import NamedTuple

Client = tuple[str, int] | None
"""Address and port; None if there is no address, as over a UNIX socket."""

_FOR, _PROTO = b"x-forwarded-for", b"x-forwarded-proto"
_IS_TLS = {b"http": False, b"https": True, b"ws": False, b"wss": True}

# An address with a port, or an IPv6 address in brackets. A bare IPv6 address has more colons.
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")
_LONGEST = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")

# Entries that are read. No chain of proxies is longer, and a head has room for thousands.
_HOPS = 100

_ANYBODY, _ANY_SOCKET = "*", "unix:"


class Origin(NamedTuple):
    """Where a request comes from."""

    client: Client
    tls: bool
    """Whether the client speaks TLS, with us or with a proxy."""


class TrustedProxies:
    """The proxies whose headers are believed.

    Args:
        listed: addresses, networks (``10.0.0.0/8``) and UNIX sockets (``unix:/run/app.sock``,
            ``unix:`` for all of them), as a list or with commas; ``*`` alone trusts anybody.

    Raises:
        TypeError: `listed` is neither a string nor a list of strings.
        ValueError: an entry is not an address, a network or a UNIX socket.
    """

    def __init__(self, listed: str | Iterable[str] = ()) -> None:
        entries = _entries(listed)
        self._anybody = entries == [_ANYBODY]
        self._literals: set[str] = set()
        self._addresses: set[IPv4Address | IPv6Address] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in () if self._anybody else entries:
            self._add(entry)
        self._nobody = not entries

    def _add(self, entry: str) -> None:
        if entry == _ANYBODY:
            raise ValueError("'*' trusts anybody: write it alone, without other entries")
        if entry.startswith(("/", _ANY_SOCKET)):
            self._literals.add(entry if entry.startswith(_ANY_SOCKET) else _ANY_SOCKET + entry)
            return
        try:
            if "/" in entry:
                self._networks.append(_plain_network(ip_network(entry)))
            else:
                self._addresses.add(_plain(ip_address(entry)))
        except ValueError as error:
            raise ValueError(
                f"{entry!r} is not a proxy to trust: expected an IP address, a network such as "
                f"'10.0.0.0/8', a UNIX socket such as 'unix:/run/app.sock', or '*' ({error})"
            ) from None

    def origin(
        self, headers: Sequence[tuple[bytes, bytes]], client: Client, socket: str, *, tls: bool
    ) -> Origin:
        """Return where a request comes from.

        Args:
            headers: those of the request, with names in lower case.
            client: the address that connected.
            socket: the path of the UNIX socket, if `client` is None.
            tls: whether the connection is TLS.
        """
        if self._nobody:
            return Origin(client, tls)
        fields = dict(headers)  # the last of each name. Fast, since nearly always neither is there
        if not (_FOR in fields or _PROTO in fields):
            return Origin(client, tls)
        if not self.trusts(client[0] if client else _ANY_SOCKET + socket):
            return Origin(client, tls)
        listed = b",".join([value for name, value in headers if name == _FOR])
        scheme = fields.get(_PROTO, b"").strip().lower()
        return Origin(self._client(listed.decode("latin-1")) or client, _IS_TLS.get(scheme, tls))

    def trusts(self, peer: str) -> bool:
        """Return whether `peer`, an address or ``unix:`` with a path, is a trusted proxy."""
        if self._anybody:
            return True
        if peer.startswith(_ANY_SOCKET):
            return _ANY_SOCKET in self._literals or peer in self._literals
        found = _parse(peer.partition("%")[0])  # "%" begins the interface on this machine
        return found is not None and self._has(found[0])

    def _has(self, address: IPv4Address | IPv6Address) -> bool:
        return address in self._addresses or any(address in network for network in self._networks)

    def _client(self, listed: str) -> Client:
        """Return the client that ``X-Forwarded-For`` names; None if that is unknown.

        If anybody is trusted, it is the first entry, which a client can make up.
        """
        client: Client = None
        if self._anybody:
            entries = listed.split(",", 1)[:1]
        else:
            entries = listed.rsplit(",", _HOPS)[: -_HOPS - 1 : -1]
        for entry in entries:
            text = entry.strip(" \t")
            if not text or (text.startswith(_ANY_SOCKET) and self.trusts(text)):
                continue
            found = _parse(text)
            if found is None:
                break
            address, port = found
            client = (str(address), port)
            if not self._has(address):
                break
        return client


def _entries(listed: object) -> list[str]:
    if isinstance(listed, str):
        listed = listed.split(",")
    if not isinstance(listed, (list, tuple)) or not all(isinstance(one, str) for one in listed):
        raise TypeError(
            "expected addresses of proxies, as a string with commas or as a list of strings, "
            f"not {listed!r}"
        )
    return [entry for one in listed if (entry := one.strip())]


def _parse(text: str) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Return an address and its port, 0 if there is none; None if it is not an address."""
    return _parse_short(text) if len(text) <= _LONGEST else None


@functools.lru_cache(maxsize=1024)  # the same proxies and clients come again
def _parse_short(text: str) -> tuple[IPv4Address | IPv6Address, int] | None:
    parts = _WITH_PORT.fullmatch(text)
    host, port = (parts[1] or parts[2], int(parts[3] or 0)) if parts else (text, 0)
    if port > 65535 or "%" in host:
        return None
    try:
        return _plain(ip_address(host)), port
    except ValueError:
        return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Turn ``::ffff:10.0.0.1``, as an IPv6 socket has it, into the IPv4 address."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _plain_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    first = _plain(network.network_address)
    if network.version == 6 and isinstance(first, IPv4Address) and network.prefixlen >= 96:
        return IPv4Network((first, network.prefixlen - 96))
    return network
