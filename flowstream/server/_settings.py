"""The server's configuration: Hypercorn's, with defaults that suit streams, and a few more.

Every default that differs from Hypercorn's is defended where it stands. What is set is
checked before the server starts: a bad value is one sentence then, and no strange behaviour
at the first slow client.
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
"""The proxies that are trusted unless others are named: those on the same machine."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# What users of other servers write, and what they mean here.
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

    What is not said here is as in Hypercorn; ``ServerConfig.from_toml`` and its kin read the
    settings below, too.
    """

    worker_class = "trio"
    """The only one there is here: Hypercorn's asyncio cannot run flowstream's streams."""

    logger_class = AccessLog
    """Escapes what clients send, and knows of more atoms."""

    access_log_format = FORMAT
    """Hypercorn's, with the seconds that a request took and how a stream ended."""

    log_format: str = "text"
    """How the log is written: ``"text"``, or ``"json"`` for one object a line."""

    h2c: bool = False
    """Whether a client may begin with HTTP/2 where there is no TLS ("prior knowledge", RFC 9113
    § 3.3). Hypercorn lets any client do so; browsers don't, so it is for proxies and services of
    one's own."""

    proxy_headers: bool = True
    """Whether ``X-Forwarded-For`` and ``X-Forwarded-Proto`` of trusted proxies are read. Hypercorn
    never reads them: behind a proxy each client has the proxy's address, and no request is TLS."""

    forwarded_allow_ips: str | list[str] | None = None
    """The proxies that are trusted: addresses, networks and UNIX sockets (``unix:`` or
    ``unix:/path``), as a list or with commas between; ``"*"`` for anybody, ``""`` for nobody. None
    is the environment's ``FORWARDED_ALLOW_IPS``, or else ``127.0.0.1,::1``, as with uvicorn: most
    proxies are on the same machine, and whoever else is there can do no more than claim an address.
    """

    h2_max_header_list_size = 20 * 1024
    """Bytes of an HTTP/2 request's head: as many as over HTTP/1.1 (``h11_max_incomplete_size``, 16
    KiB), and 32 for each of 128 fields, which HTTP/2 counts beside. Hypercorn's 64 KiB are 6 MiB on
    a hundred streams."""

    max_request_fields: int = 256
    """Header fields of a request; one with more is answered with 431. Apache, gunicorn and hyper
    allow 100. Over HTTP/2 browsers send each cookie as a field of its own (RFC 9113 § 8.2.3), and
    keep up to 180 of a site. Each field takes some 5 µs, in which nobody else runs."""

    backlog = 2048
    """Connections that may wait to be accepted. Hypercorn's 100 are few when a thousand
    browsers come back after a restart; the kernel caps it at ``net.core.somaxconn`` (4096)."""

    read_timeout: int | None = None
    """Seconds that a client may say nothing: any number, as in Hypercorn. A client that reads
    a stream has nothing more to say, and is noticed when it leaves."""

    max_requests: int | None = None
    """Requests after which the worker ends: any number, as in Hypercorn, since its end cuts
    the streams that are open then. They get their farewell all the same."""

    graceful_timeout: float = 5.0
    """Seconds that streams have for their farewell, and other requests to end, at a shutdown.
    Hypercorn's 3 are over before a `Limits.cleanup_timeout` is, which is 5."""

    shutdown_timeout: float = 10.0
    """Seconds that the app's lifespan has for its own shutdown. Hypercorn's 60 are longer
    than an orchestrator waits before it kills: Kubernetes gives 30 for everything."""

    write_timeout: float = 30.0
    """Seconds that a write may make no progress before its connection is reset. nginx's
    ``send_timeout`` is 60 s; a phone that changes networks is back within 30."""

    body_timeout: float = 60.0
    """Seconds that a request's body may keep its application waiting; each 500 bytes that arrive
    give back one. Then the request is answered with 408, unless its response has begun. nginx's
    ``client_body_timeout`` is 60 s, too, but only between two reads. `math.inf` for no bound."""

    worker_timeout: float = 30.0
    """Seconds that the event loop of a worker under a supervisor may be blocked; then the worker
    is killed, and another one takes its place. gunicorn's ``timeout`` is as long. `math.inf` for
    no bound: for a debugger inside the app, say. Without ``workers`` nobody watches."""

    keep_alive_probes: tuple[int, int, int] = (60, 10, 3)
    """Seconds of silence before TCP asks whether the peer is there, seconds between two
    questions, and questions before it is given up: a peer that lost its power is noticed
    in 90 s. The kernel's own figures (7200, 75, 9) take two hours."""

    readyz: str | None = None
    """The path that answers 200 while the server is ready and 503 from the moment that it
    is told to stop, e.g. ``"/readyz"``; None for none."""

    lame_duck: float = 0.0
    """Seconds to go on accepting after the server was told to stop, with `readyz` at 503:
    the time that a load balancer needs to look there."""


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
    """Return the message for a setting that there is not, with the one most like it."""
    settings = [one for one in dir(ServerConfig) if not one.startswith("_")]
    near = difflib.get_close_matches(name, settings, n=1)
    if name in _FOREIGN:
        return f"there is no server setting {name!r}: write {_FOREIGN[name]}"
    return f"there is no server setting {name!r}" + (f": did you mean {near[0]!r}?" if near else "")


def checked(config: Config) -> ServerConfig:
    """Return `config` as a `ServerConfig`; a plain Hypercorn one keeps what was set on it.

    Raises:
        TypeError: it is no configuration, or a setting is of the wrong type.
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
    """Return the proxies whose word on a request's client is taken.

    Raises:
        TypeError: the setting is neither a string nor a list of strings.
        ValueError: an entry is no address, network or UNIX socket.
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
    """Return `config` as a `ServerConfig`, with all that was set on it or overridden in it."""
    kind = ServerConfig
    if type(config) is not Config:
        # A class of its own may override methods, e.g. create_ssl_context.
        own = new_class("ServerConfig", (type(config), ServerConfig))
        kind = cast(type[ServerConfig], own)
    result = kind.__new__(kind)
    vars(result).update(vars(config))
    if type(result._log) is Logger:
        result._log = None  # ours is made in its place
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
