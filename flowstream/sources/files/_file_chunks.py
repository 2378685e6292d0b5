"""Files: the bytes of a file, or of the part that a client asks for.

::

    @app.get("/videos/<name>")
    async def video(name):
        return raw(file_chunks(VIDEOS / name, request), media_type="video/mp4")

The file is checked when the source is made. So a missing file is an error of the view, and the
response knows its status, its validators and its length. The file is opened when the stream runs,
so a stream that never runs leaves nothing open. If the file was replaced in between, the stream
fails, because the client has the length and the validators of the old file.

A worker thread reads up to half a megabyte at a time, while the stream writes what was read before.
The stream's buffer bounds how far it reads ahead (1 MiB, see `Buffer`). While a client does not
read, no thread is held.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import Any

from flowstream._clock import clock
from flowstream._errors import PublicError
from flowstream.buffer._outlet import Outlet
from flowstream.sources._source import Source
from flowstream.sources.files._ranges import asked_range
from flowstream.sources.files._regular_file import Path, open_regular
from flowstream.sources.threads._pools import pools
from flowstream.sources.threads._threaded_iteration import ThreadedIteration

__all__ = ["file_chunks"]

_BATCH_BYTES = 512 * 1024

# A file that changes twice between two ticks of the file system's clock has the same times
# after both. Kernels tick every few milliseconds, FAT every two seconds.
_SETTLED_SECONDS = 2.0


class FileChunks(Source):
    """A part of a file, or all of it; made by `file_chunks`."""

    def __init__(
        self,
        path: Path,
        seen: os.stat_result,
        part: range | None,
        validators: Mapping[str, str],
        chunk: int,
    ) -> None:
        size = seen.st_size
        self._path = path
        self._chunk = chunk
        self._seen = seen
        self._part = range(size) if part is None else part
        headers = {"Accept-Ranges": "bytes", **validators}
        if part is not None:
            self.status: int | None = 206 if part else 416
            span = f"{part.start}-{part.stop - 1}" if part else "*"
            headers["Content-Range"] = f"bytes {span}/{size}"
        self.headers: Sequence[tuple[str, str]] = tuple(headers.items())
        self.length: int | None = len(self._part)

    async def run(self, out: Outlet) -> None:
        """Send the bytes, chunk by chunk. The file is open meanwhile.

        Raises:
            NotFoundError: the file no longer exists.
            PublicError: ``file_changed``: another file has taken its place, or it is shorter now.
        """
        batch = min(256, _BATCH_BYTES // self._chunk)
        pool = pools().files  # short work, in another pool than an app's generators
        await ThreadedIteration(self._read, call=True, batch=batch, pool=pool).run(out)

    def _read(self) -> Iterator[bytes]:
        """Yield the bytes. Runs in worker threads, and is closed in one."""
        if not self._part:
            return
        fd, now = open_regular(self._path)
        try:
            if not _is_same(self._seen, now):
                raise _changed()
            at, end = self._part.start, self._part.stop
            while at < end:
                data = os.pread(fd, min(self._chunk, end - at), at)
                if not data:
                    raise _changed()  # shorter than promised
                yield data
                at += len(data)
        finally:
            os.close(fd)


def file_chunks(
    path: Path,
    request: Any = None,
    *,
    range: str | None = None,
    if_range: str | None = None,
    chunk: int = 64 * 1024,
) -> Source:
    """Return the bytes of a file as a source, for `raw`.

    The response has the file's ``Content-Length``, ``ETag`` and ``Last-Modified``. A request for
    a part gets the part (RFC 9110 § 14), as 206 with ``Content-Range``, or a 416. A request for
    several parts, or with an invalid header, gets the whole file. ``If-Range`` (§ 13.1.5) works:
    a download goes on only in the same file. If the file grows while it is read, only the
    promised length is sent; if it shrinks, the stream fails.

    A file that has not changed for two seconds has a ``Last-Modified`` and a strong ``ETag``.
    Earlier, another change might not show in either.

    It **waits** for the file system, and so does the event loop. If `path` contains what a client
    sent, check it: ``..`` works as in any path.

    Args:
        path: the file.
        request: the request, for its method, ``Range`` and ``If-Range``: Quart's, Starlette's,
            or an ASGI scope. Only a GET can ask for a part (§ 14.2).
        range: the value of ``Range``, if you have no request.
        if_range: the value of ``If-Range``.
        chunk: bytes of one read, and of one item; from 1 to 512 KiB.

    Raises:
        NotFoundError: there is no such file, or it is a directory or a device. 404.
        PublicError: it may not be read. 403.
        OSError: the file system failed.
        TypeError, ValueError: an argument is not what is said above.
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"chunk must be an int (bytes), not {chunk!r}")
    if not 1 <= chunk <= _BATCH_BYTES:
        raise ValueError(f"chunk must be from 1 to {_BATCH_BYTES} bytes, not {chunk}")
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, not a {type(path).__name__}")
    if range is not None and not isinstance(range, str):
        raise TypeError(f"range must be a str such as 'bytes=0-499', not {range!r}")
    if request is not None:
        if range is not None or if_range is not None:
            raise TypeError("give either the request or its headers")
        range, if_range = _asked(request)
    fd, seen = open_regular(path)
    os.close(fd)
    validators = _validators(seen, clock.file_time_ns() / 1e9)
    part = asked_range(range, seen.st_size)
    if part is not None and if_range is not None and not _holds(if_range, validators):
        part = None
    return FileChunks(path, seen, part, validators, chunk)


def _asked(request: Any) -> tuple[str | None, str | None]:
    """Return the values of ``Range`` and ``If-Range``."""
    scope = request if isinstance(request, Mapping) else getattr(request, "scope", None)
    if not isinstance(scope, Mapping):
        raise TypeError(f"a {type(request).__name__} is no request: it has no ASGI scope")
    if scope["method"] != "GET":
        return None, None
    return _field(scope, b"range"), _field(scope, b"if-range")


def _field(scope: Mapping[str, Any], name: bytes) -> str | None:
    values = [bytes(value) for key, value in scope["headers"] if bytes(key).lower() == name]
    return b", ".join(values).decode("latin-1") if values else None


def _validators(seen: os.stat_result, now: float) -> dict[str, str]:
    """Return the validators, which tell one state of a file from another (RFC 9110 § 8.8).

    A strong tag has to change with each byte. A file may be replaced by one of equal size and time
    of modification, as by `tar` or `rsync`. So the tag includes the inode and the time of the
    inode's change; as a digest, since clients should not see them.
    """
    what = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    tag = hashlib.blake2b(repr(what).encode(), digest_size=9).hexdigest()
    if now - seen.st_ctime < _SETTLED_SECONDS:
        return {"ETag": f'W/"{tag}"'}
    if seen.st_mtime > now:  # § 8.8.2.1
        return {"ETag": f'"{tag}"'}
    return {"ETag": f'"{tag}"', "Last-Modified": formatdate(seen.st_mtime // 1, usegmt=True)}


def _holds(if_range: str, validators: Mapping[str, str]) -> bool:
    """Return whether the client has a part of this very file (RFC 9110 § 13.1.5).

    Tags are compared strongly: a weak tag equals no other. A date must be exactly the one that we
    sent, and we send one only if the file has not changed for longer than a second.
    """
    given = if_range.strip(" \t")
    if given.startswith(('"', "W/")):
        return given == validators["ETag"] and not given.startswith("W/")
    return given == validators.get("Last-Modified")


def _is_same(seen: os.stat_result, now: os.stat_result) -> bool:
    """Return whether it is the same file as before, unchanged or with more at its end."""
    if (seen.st_dev, seen.st_ino) != (now.st_dev, now.st_ino):
        return False
    return now.st_size > seen.st_size or (
        now.st_size == seen.st_size and now.st_mtime_ns == seen.st_mtime_ns
    )


def _changed() -> PublicError:
    return PublicError(
        "file_changed", "The file was changed while it was sent.", retryable=True, status=503
    )
