"""The end of a run, as a log keeps it: the last record of its topic.

It is an envelope of a kind of its own (`flowstream/topics/_envelope.py`), so nothing that an app
publishes can be taken for it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from flowstream._closing import CloseReason
from flowstream._errors import PublicError
from flowstream.topics._envelope import VERSION

_KIND = 4

_write = msgspec.msgpack.Encoder().encode
_read = msgspec.msgpack.Decoder().decode
_read_json = msgspec.json.Decoder().decode
_write_json = msgspec.json.Encoder().encode


class RunEnd(NamedTuple):
    """Why a run has ended."""

    reason: CloseReason
    error: PublicError | None = None
    """What its clients are told, if it failed."""
    detail: str = ""
    """The cause, for the streams' reports."""


def owner_lost() -> RunEnd:
    """Return the end of a run whose worker is gone."""
    error = PublicError("owner_lost", "This was interrupted.", retryable=True, status=503)
    return RunEnd(CloseReason.ERROR, error, "run: its worker is gone")


def no_longer_kept() -> PublicError:
    """Return the error for a client of a run whose events are gone."""
    return PublicError("no_such_run", "This is no longer kept.", status=404)


def wrap_end(end: RunEnd) -> bytes:
    """Return the record of an end."""
    error = end.error
    told = None if error is None else [error.code, error.message, error.retryable]
    content = _write_json({"reason": end.reason.value, "error": told, "detail": end.detail})
    return _write((VERSION, _KIND, content, None, None, False, None))


_HEAD = wrap_end(RunEnd(CloseReason.COMPLETED))[:3]  # an array of seven, the version, the kind


def is_end(data: bytes) -> bool:
    """Return whether a record is the end of a run."""
    return data[:3] == _HEAD


def unwrap_end(data: bytes) -> RunEnd:
    """Return the end that `wrap_end` was given; one of unknown cause if it can't be read."""
    try:
        fields = _read_json(_read(data)[2])
        told = fields["error"]
        error = None
        if told is not None:
            code, message, retryable = told
            error = PublicError(code, message, retryable=retryable)
        return RunEnd(CloseReason(fields["reason"]), error, fields["detail"])
    except (msgspec.MsgspecError, TypeError, ValueError, KeyError, IndexError):
        return owner_lost()._replace(detail="run: its end can't be read")
