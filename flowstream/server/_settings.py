"""The server's configuration: Hypercorn's, with defaults that suit streams, and more settings.

Every default that differs from Hypercorn's has its reason beside it. Settings are checked before
the server starts: a bad value gives one sentence then, and not strange behaviour at the first slow
client.
"""

from __future__ import annotations

import difflib
import math
import os
from types import new_class
from typing import Any, cast

from flowstream.limits import check_count, check_positive
from flowstream.server._forwarded import TrustedProxies
from flowstream.server._hypercorn import Config, Logger
from flowstream.server.log._access_log import FORMAT, AccessLog
from flowstream.server.log._log_handlers import FORMATS

LOOPBACK = "127.0.0.1,::1"
"""The proxies that are trusted by default: those on the same machine."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# Settings of other servers, and what to write here.
_FOREIGN = {
    "host": "bind, such as '0.0.0.0:8000'",
    "port": "bind, such as '127.0.0.1:8000'",
    "timeout": "worker_timeout, write_timeout or graceful_timeout",
    "timeout_keep_alive": "keep_alive_timeout",
    "timeout_graceful_shutdown": "graceful_timeout",
    "timeout_worker_healthcheck": "worker_timeout",
    "ssl_certfile": "certfile",
    "ssl_keyfile": "keyfile",
    "reload": "use_reloader",
    "access_log": "accesslog",
    "limit_request_fields": "max_request_fields",
    "log_level": "loglevel",
}


class ServerConfig(Config):
    """A Hypercorn configuration for streams.

    It has all of Hypercorn's settings. ``ServerConfig.from_toml`` and its kin also read the
    settings below.
    """

    worker_class = "trio"
    """Always Trio: flowstream's streams can't run on Hypercorn's asyncio."""

    logger_class = AccessLog
    """Escapes what clients send, and has more atoms."""

    access_log_format = FORMAT
    """Hypercorn's format, with the seconds that a request took, and how a stream ended."""

    log_format: str = "text"
    """The format of the log: ``"text"``, or ``"json"`` for one object a line."""

    h2c: bool = False
    """Whether a client may begin with HTTP/2 without TLS ("prior knowledge", RFC 9113 § 3.3).
    Hypercorn lets any client do so. Browsers never do, so turn it on for a proxy or a service of
    your own."""

    proxy_headers: bool = True
    """Whether to read ``X-Forwarded-For`` and ``X-Forwarded-Proto`` of trusted proxies. Hypercorn
    never does: behind a proxy each client has the proxy's address, and no request is TLS."""

    forwarded_allow_ips: str | list[str] | None = None
    """The trusted proxies: addresses, networks and UNIX sockets (``unix:`` or ``unix:/path``), as a
    list or with commas; ``"*"`` for anybody, ``""`` for nobody. None means the environment's
    ``FORWARDED_ALLOW_IPS``, or else ``127.0.0.1,::1``, as with uvicorn: most proxies run on the
    same machine, and another program there can claim a false address and nothing more.
    """

    h2_max_header_list_size = 20 * 1024
    """Bytes of an HTTP/2 request's head: as many as over HTTP/1.1 (``h11_max_incomplete_size``, 16
    KiB), and the 32 that HTTP/2 adds for each field, for 128 fields. Hypercorn's 64 KiB would be
    6 MiB on a hundred streams."""

    max_request_fields: int = 256
    """Header fields of a request; the answer to more is 431. Apache, gunicorn and hyper allow 100.
    Over HTTP/2 browsers send each cookie as a field of its own (RFC 9113 § 8.2.3), and keep up to
    180 of a site. Each field takes some 5 µs, in which no other task runs."""

    backlog = 2048
    """Connections that may wait to be accepted. Hypercorn's 100 are too few when a thousand
    browsers come back after a restart. The kernel's own limit is ``net.core.somaxconn`` (4096)."""

    read_timeout: int | None = None
    """Seconds that a client may send nothing; None for no bound, as in Hypercorn. A client that
    reads a stream sends nothing more, and the server notices when it leaves."""

    max_requests: int | None = None
    """Requests after which the worker ends; None for never, as in Hypercorn. A worker's end also
    ends its open streams, which say goodbye first."""

    graceful_timeout: float = 5.0
    """Seconds that streams have to say goodbye, and other requests to end, at a shutdown.
    Hypercorn's 3 are shorter than `Limits.cleanup_timeout`, which is 5."""

    shutdown_timeout: float = 10.0
    """Seconds that the app's lifespan has for its own shutdown. An orchestrator kills before
    Hypercorn's 60 are over: Kubernetes gives 30 for everything."""

    write_timeout: float = 30.0
    """Seconds that a write may make no progress before its connection is reset. nginx's
    ``send_timeout`` is 60 s; a phone that changes networks is back within 30."""

    body_timeout: float = 60.0
    """Seconds that a request's body may keep its application waiting; every 500 bytes that arrive
    give one second back. Then the answer is 408, unless a response has begun. nginx's
    ``client_body_timeout`` is 60 s, too, but only between two reads. `math.inf` for no bound."""

    worker_timeout: float = 30.0
    """Seconds that a worker's event loop may be blocked; then its supervisor kills the worker and
    starts another one. gunicorn's ``timeout`` is as long. `math.inf` for no bound, for example with
    a debugger inside the app. Without ``workers`` there is no supervisor, and nobody watches."""

    keep_alive_probes: tuple[int, int, int] = (60, 10, 3)
    """TCP's probes of a silent peer: seconds before the first, seconds between two, and how many
    before TCP gives the peer up. A peer that lost its power is noticed in 90 s. The kernel's own
    figures (7200, 75, 9) take two hours."""

    readyz: str | None = None
    """A path that the server answers with 200, and with 503 as soon as it is told to stop, for
    example ``"/readyz"``; None for none."""

    lame_duck: float = 0.0
    """Seconds to go on accepting after the server was told to stop, while `readyz` answers 503:
    the time that a load balancer needs to notice."""


def streaming_config(**settings: Any) -> ServerConfig:
    """Return a `ServerConfig` with these settings.

    Args:
        settings: attributes of `ServerConfig` or of `hypercorn.config.Config`, by name.

    Raises:
        TypeError: there is no such setting.
    """
    config = ServerConfig()
    for name, value in settings.items():
        if name.startswith("_") or not hasattr(config, name):
            raise TypeError(no_setting(name))
        setattr(config, name, value)
    return config


def no_setting(name: str) -> str:
    """Return the message for an unknown setting. It suggests the setting with the nearest name."""
    settings = [one for one in dir(ServerConfig) if not one.startswith("_")]
    near = difflib.get_close_matches(name, settings, n=1)
    if name in _FOREIGN:
        return f"there is no server setting {name!r}: write {_FOREIGN[name]}"
    return f"there is no server setting {name!r}" + (f": did you mean {near[0]!r}?" if near else "")


def checked(config: Config) -> ServerConfig:
    """Check `config`, and return it as a `ServerConfig`, with the settings of a Hypercorn one.

    Raises:
        TypeError: `config` is not a configuration, or a setting has the wrong type.
        ValueError: a setting is out of bounds.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config must be a hypercorn Config, not a {type(config).__name__}")
    if not isinstance(config, ServerConfig):
        config = _adopted(config)
    check_positive("write_timeout", config.write_timeout, unit="seconds")
    check_positive("body_timeout", config.body_timeout, unit="seconds")
    check_positive("worker_timeout", config.worker_timeout, unit="seconds")
    for name in ("graceful_timeout", "lame_duck", "shutdown_timeout"):
        _seconds(name, getattr(config, name))
    for name, unit in (
        ("backlog", "connections"),
        ("max_app_queue_size", "messages"),
        ("max_request_fields", "fields"),
    ):
        check_count(name, getattr(config, name), unit=unit)
    if config.read_timeout is not None:
        check_positive("read_timeout", config.read_timeout, unit="seconds")
    if config.max_requests is not None:
        check_count("max_requests", config.max_requests, unit="requests")
    for name in ("h2c", "proxy_headers"):
        if not isinstance(value := getattr(config, name), bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
    trusted_proxies(config)
    _check_probes(config.keep_alive_probes)
    if config.log_format not in FORMATS:
        raise ValueError(f"log_format must be 'text' or 'json', not {config.log_format!r}")
    level = config.loglevel
    if not isinstance(level, str) or level.upper() not in LEVELS:
        raise ValueError(f"loglevel must be one of {', '.join(LEVELS).lower()}, not {level!r}")
    readyz = config.readyz
    if readyz is not None and not (isinstance(readyz, str) and readyz.startswith("/")):
        raise ValueError(f"readyz must be a path that begins with /, not {readyz!r}")
    if (config.certfile is None) != (config.keyfile is None):
        # Hypercorn would serve in the clear.
        raise ValueError("certfile and keyfile belong together: one of them is not set")
    if config.quic_bind and config.certfile is None:
        raise ValueError("quic_bind needs certfile and keyfile: HTTP/3 is always encrypted")
    return config


def trusted_proxies(config: ServerConfig) -> TrustedProxies:
    """Return the proxies whose headers are believed.

    Raises:
        TypeError: the setting is neither a string nor a list of strings.
        ValueError: an entry is not an address, a network or a UNIX socket.
    """
    name, listed = "forwarded_allow_ips", config.forwarded_allow_ips
    if listed is None:
        name = "FORWARDED_ALLOW_IPS"
        listed = os.environ.get(name, LOOPBACK)
    try:
        found = TrustedProxies(listed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return found if config.proxy_headers else TrustedProxies()


def _adopted(config: Config) -> ServerConfig:
    """Return `config` as a `ServerConfig`, with all its settings and overridden methods."""
    kind = ServerConfig
    if type(config) is not Config:
        # A subclass may override methods, for example create_ssl_context.
        own = new_class("ServerConfig", (type(config), ServerConfig))
        kind = cast(type[ServerConfig], own)
    result = kind.__new__(kind)
    vars(result).update(vars(config))
    if type(result._log) is Logger:
        result._log = None  # Hypercorn makes ours instead
    return result


def _seconds(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more seconds and finite, not {value!r}")


def _check_probes(probes: Any) -> None:
    try:
        seconds, interval, count = probes
        for number in (seconds, interval, count):
            check_count("each of them", number, unit="seconds, seconds, probes")
    except (TypeError, ValueError):
        raise ValueError(
            "keep_alive_probes must be three whole numbers above 0 (seconds of silence, seconds "
            f"between probes, probes), not {probes!r}"
        ) from None
