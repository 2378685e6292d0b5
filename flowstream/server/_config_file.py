"""Read the configuration file: TOML with Hypercorn's names, as for ``Config.from_toml``.

A misspelt name, a value of the wrong type, or a setting without effect is an error, in one
sentence. Hypercorn accepts any name and any value.
"""

from __future__ import annotations

import enum
import functools
import operator
import ssl
import tomllib
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from flowstream.server._hypercorn import Config
from flowstream.server._settings import ServerConfig, no_setting

# Settings that only the program `hypercorn` reads, as it starts. They would do nothing here.
_WITHOUT_EFFECT = (
    "application_path",
    "daemon",
    "debug",
    "logger_class",
    "pid_path",
    "wsgi_max_body_size",
)

# A type, and its type in TOML. A bool is also an int, so it comes first.
_PLAIN = ((bool, bool), (int, int), (str, str), (dict, dict), (list, list), (tuple, list))

# Settings whose value is a member of an enum. TOML gives its name or its number.
_ENUMS: dict[str, type[enum.IntEnum] | type[enum.IntFlag]] = {
    "verify_mode": ssl.VerifyMode,
    "verify_flags": ssl.VerifyFlags,
}

_LISTS = ("bind", "insecure_bind", "quic_bind")


class ConfigFileError(Exception):
    """The file cannot be used; the message says why, in one sentence."""


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Return the settings in the TOML file at `path`.

    Raises:
        ConfigFileError: it cannot be read, is not TOML, or has an unknown or invalid setting.
    """
    try:
        with Path(path).open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigFileError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{str(path)!r} is not TOML: {error}") from error
    for name, value in found.items():
        if name in _ENUMS and isinstance(value, (str, list)):
            try:
                found[name] = _member(name, value)
            except KeyError:
                names = ", ".join(repr(member.name) for member in _ENUMS[name])
                raise ConfigFileError(
                    f"{str(path)!r}: {name} cannot be {value!r}: expected one of {names}"
                ) from None
        elif problem := _problem_of(name, value):
            raise ConfigFileError(f"{str(path)!r}: {problem}")
    return found


def _member(name: str, value: str | list[Any]) -> Any:
    """Return the member of an enum by its name; for several flags, by a list of names.

    Raises:
        KeyError: no member has that name.
    """
    kind = _ENUMS[name]
    if isinstance(value, str):
        return kind[value]
    if not issubclass(kind, enum.Flag) or not value:
        raise KeyError(value)
    return functools.reduce(operator.or_, (kind[str(one)] for one in value))


def _problem_of(name: str, value: Any) -> str | None:
    if name == "worker_class":
        return None if value == "trio" else "worker_class must be 'trio'"
    if name in _WITHOUT_EFFECT:
        return f"the setting {name!r} has no effect under flowstream serve"
    if name == "workers" and isinstance(value, int) and value < 1:
        return "workers must be 1 or more"
    types = _types().get(name)
    if types is None:
        return no_setting(name)
    fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
    if fits and isinstance(value, list) and name != "keep_alive_probes":
        fits = all(isinstance(item, str) for item in value)
    if fits:
        return None
    return f"{name} cannot be {value!r}: expected {' or '.join(sorted(_words(types)))}"


def _types() -> dict[str, tuple[type, ...]]:
    """Return the types that each setting may have, in TOML."""
    found: dict[str, tuple[type, ...]] = dict.fromkeys(_LISTS, (str, list))
    found["root_path"] = (str,)
    hints: dict[str, Any] = get_type_hints(Config) | get_type_hints(ServerConfig)
    for name in dir(ServerConfig):
        value = getattr(ServerConfig, name)
        if name.startswith("_") or callable(value) or isinstance(value, property):
            continue
        found[name] = tuple(_plain_types(hints.get(name, type(value))))
    return found


def _plain_types(hint: Any) -> set[type]:
    """Return TOML's types for an annotation: a number for an enum, a list for a tuple."""
    if get_origin(hint) in (list, tuple):
        return {list}
    kinds = {kind for arg in get_args(hint) for kind in _plain_types(arg)}
    if kinds or not isinstance(hint, type):
        return kinds
    if hint is float:
        return {int, float}
    for kind, plain in _PLAIN:
        if issubclass(hint, kind):
            return {plain}
    return set()  # None, a logger


def _words(types: tuple[type, ...]) -> set[str]:
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    words |= {list: "a list", dict: "a table"}
    return {words[kind] for kind in types if not (kind is int and float in types)}
