"""A worker's orders: what its supervisor passes to it.

They travel as JSON on the worker's standard input. A setting that can't travel is refused by its
name, before anything is started. Pickle would accept anything, even a logger or a TLS context, but
the worker would get something else: a logger without its handlers, for example.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from flowstream.server._hypercorn import Sockets
from flowstream.server._settings import ServerConfig

CODE_CHANGED = 79
"""The exit status of a worker that ends because its code has changed."""

# Not passed: each process makes its own.
_NOT_PASSED = "_log"

# Enums travel as numbers, and get their type back in the worker.
_ENUMS = {"verify_mode": ssl.VerifyMode, "verify_flags": ssl.VerifyFlags}


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The orders of one worker.

    Attributes:
        app: the app's name, ``module:app``.
        settings: the attributes that were set on the `ServerConfig`.
        sockets: the descriptors of the listening sockets: secure, insecure, QUIC.
        lifeline: a descriptor. Its end of file says that the supervisor is gone.
        report: a descriptor. The worker writes there that it is ready, or why it won't be.
        reload: whether the worker ends, with `CODE_CHANGED`, when its code changes.
    """

    app: str
    settings: dict[str, Any]
    sockets: tuple[list[int], list[int], list[int]]
    lifeline: int
    report: int
    reload: bool

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that the worker inherits."""
        return [*(fd for fds in self.sockets for fd in fds), self.lifeline, self.report]

    def to_json(self) -> bytes:
        """Return the JSON that `from_json` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Assignment:
        """Return the assignment that `data` describes."""
        found = json.loads(data)
        return cls(**{field.name: found[field.name] for field in fields(cls)})

    def config(self) -> ServerConfig:
        """Return the supervisor's configuration."""
        config = ServerConfig()
        for name, value in self.settings.items():
            enum = _ENUMS.get(name)
            setattr(config, name, value if enum is None or value is None else enum(value))
        return config

    def open_sockets(self) -> Sockets:
        """Return the listening sockets. Programs that the app starts don't inherit them."""
        opened = [[socket.socket(fileno=fd) for fd in fds] for fds in self.sockets]
        for sock in (sock for group in opened for sock in group):
            sock.set_inheritable(False)
        return Sockets(*opened)


def descriptors(sockets: Sockets) -> tuple[list[int], list[int], list[int]]:
    """Return the descriptors of `sockets`, for an `Assignment`."""
    secure, insecure, quic = (
        [sock.fileno() for sock in group]
        for group in (sockets.secure_sockets, sockets.insecure_sockets, sockets.quic_sockets)
    )
    return secure, insecure, quic


def settings_of(config: ServerConfig) -> dict[str, Any]:
    """Return the settings of `config`, in a form that can travel.

    Raises:
        TypeError: a setting can't travel; the message names it.
    """
    if type(config) is not ServerConfig:
        raise TypeError(
            f"a {type(config).__qualname__} cannot be passed to a worker, since its methods would "
            "be lost: pass a plain ServerConfig"
        )
    return {
        name: _plain(name.removeprefix("_"), value)
        for name, value in vars(config).items()
        if name != _NOT_PASSED
    }


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(name, item) for key, item in value.items()}
    raise TypeError(
        f"the setting {name!r} cannot be passed to a worker: it is or contains a "
        f"{type(value).__name__}; write strings, numbers, paths, or lists and dictionaries of them"
    )
