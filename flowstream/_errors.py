"""The errors of flowstream, sorted by whose fault they are.

::

    FlowstreamError
    ├── SourceError (TypeError)        yours: what was handed over is no source of items
    ├── EncodingError (ValueError)     yours: an item that the chosen format cannot carry
    ├── StreamUsedError (RuntimeError) yours: a response that was already served once
    ├── MissingExtraError (ImportError) the environment's: an optional dependency is absent
    ├── PublicError                    yours to raise: its code and message reach the client
    ├── NotAuthorizedError             the client's: it may not have this topic (see `Topics`)
    ├── TooManyTopicsError             nobody's: no room for another topic (see `Topics`)
    ├── SlowConsumerError              a subscription's: it did not take its events in time
    └── DecodingError (ValueError)     the peer's: bytes that are not the format they claim to be

Out-of-range arguments raise the built-in ``ValueError`` or ``TypeError``, at the call that
gave them. Nothing that a *client* does raises in your code, but for the cancellation of
the producer that served it.
"""

from __future__ import annotations


class FlowstreamError(Exception):
    """The base of every error that flowstream defines."""


class SourceError(FlowstreamError, TypeError):
    """Something that cannot be streamed was given as a source.

    Raised by `stream()` and its kin when they are called, never later.
    """


class EncodingError(FlowstreamError, ValueError):
    """An item cannot be written in the stream's format.

    Raised inside the producer's `send`. Left alone it ends the stream with an in-band
    ``failed`` event and close reason ``error``; the log names the item's type.
    """


def unencodable(data: object, error: Exception) -> EncodingError:
    """Return the error for an item that a format refused with `error`."""
    return EncodingError(f"an item of type {type(data).__qualname__} cannot be encoded: {error}")


class StreamUsedError(FlowstreamError, RuntimeError):
    """A `StreamResponse` was called a second time; its source can be read only once."""


class MissingExtraError(FlowstreamError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class DecodingError(FlowstreamError, ValueError):
    """Bytes handed to a decoder break the format or a bound of the decoder."""


class PublicError(FlowstreamError):
    """Raise this in a producer to tell the client why the stream failed.

    Any other exception reaches the client as ``{"code": "internal", ...}`` without its
    text, because messages written for a log are not written for strangers.

    Args:
        code: a short machine-readable word, e.g. ``"quota_exceeded"``.
        message: one sentence for the person at the other end.
        retryable: whether the client may connect again and try anew. When false (the
            default) the ``failed`` event carries an id that makes a reconnecting
            EventSource get a 204, which stops it.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
