"""The server's configuration: Hypercorn's, with defaults that suit streams, and a few more.

Every default that differs from Hypercorn's is defended where it stands.
"""

from __future__ import annotations

from typing import Any

from flowstream.limits import positive
from flowstream.server._hypercorn import Config


class ServerConfig(Config):
    """A Hypercorn configuration for streams.

    What is not said here is as in Hypercorn; ``ServerConfig.from_toml`` and its kin read the
    settings below, too.
    """

    worker_class = "trio"

    backlog = 2048
    """Connections that may wait to be accepted. Hypercorn's 100 are few when a thousand
    browsers come back after a restart; the kernel caps it at ``net.core.somaxconn`` (4096)."""

    read_timeout: int | None = None
    """Seconds that a client may say nothing: any number. A client that reads a stream has
    nothing more to say, and is noticed when it leaves."""

    max_requests: int | None = None
    """Requests after which the worker ends: any number, since its end would cut the streams
    that are open then. Restarting a worker is what SIGHUP is for."""

    graceful_timeout = 5.0
    """Seconds that streams have for their farewell, and other requests to end, at a shutdown."""

    shutdown_timeout = 10.0
    """Seconds that the app's lifespan has for its own shutdown. Hypercorn's 60 are longer
    than an orchestrator waits before it kills: Kubernetes gives 30 for everything."""

    write_timeout = 30.0
    """Seconds that a write may make no progress before its connection is reset. nginx's
    ``send_timeout`` is 60 s; a phone that changes networks is back within 30."""

    keep_alive_probes = (60, 10, 3)
    """Seconds of silence before TCP asks whether the peer is there, seconds between two
    questions, and questions before it is given up: a peer that lost its power is noticed
    in 90 s. The kernel's own figures (7200, 75, 9) take two hours."""

    readyz: str | None = None
    """The path that answers 200 while the server is ready and 503 from the moment that it
    is told to stop, e.g. ``"/readyz"``; None for none."""

    lame_duck = 0.0
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
            raise TypeError(f"there is no server setting {name!r}")
        setattr(config, name, value)
    return config


def checked(config: Config) -> ServerConfig:
    """Return `config` as a `ServerConfig`; a plain Hypercorn one keeps what was set on it.

    Raises:
        TypeError: it is no configuration.
        ValueError: a setting is out of bounds.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config must be a hypercorn Config, not a {type(config).__name__}")
    if not isinstance(config, ServerConfig):
        given, config = config, ServerConfig()
        for name, value in vars(given).items():
            setattr(config, name, value)
    positive("write_timeout", config.write_timeout, unit="seconds")
    for name in ("graceful_timeout", "lame_duck"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must be 0 or more seconds, not {getattr(config, name)!r}")
    probes = config.keep_alive_probes
    if len(probes) != 3 or not all(isinstance(n, int) and n > 0 for n in probes):
        raise ValueError(
            "keep_alive_probes must be three whole numbers above 0 (seconds of silence, seconds "
            f"between probes, probes), not {probes!r}"
        )
    if config.readyz is not None and not config.readyz.startswith("/"):
        raise ValueError(f"readyz must be a path that begins with /, not {config.readyz!r}")
    return config
