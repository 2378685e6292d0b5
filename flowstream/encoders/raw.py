"""Raw: unchanged bytes, for files, media, archives and the app's own formats.

Nothing may be put between the app's bytes. So there are no heartbeats and no control events, and a
stream that ends early is cut.
"""

from __future__ import annotations

from typing import Any

from flowstream._event import check_field
from flowstream.abc import Encoder

__all__ = ["Raw"]


class Raw(Encoder):
    """Bytes, unchanged; a `str` as UTF-8. Id, type, key and retry are not sent.

    Args:
        media_type: the value of ``Content-Type``, with its charset if it is text.

    Raises:
        TypeError: if `media_type` is not a `str`.
        ValueError: if it is empty, not ASCII, or has CR, LF or NUL in it, which would let it
            forge headers.
    """

    verbatim = True

    def __init__(self, media_type: str = "application/octet-stream") -> None:
        check_field("media_type", media_type)
        if not media_type or not media_type.isascii():
            raise ValueError(f"media_type must be ASCII and not empty: {media_type!r}")
        self.media_type = media_type

    def encode(
        self,
        data: Any,
        *,
        id: str | None = None,
        type: str | None = None,
        key: object = None,
        retry: int | None = None,
    ) -> bytes:
        """Return the bytes of `data`; a copy, unless it is `bytes` already.

        Raises:
            TypeError: if `data` is not bytes, bytearray, memoryview or str. An int is refused,
                too: bytes(5) would be five NULs.
            UnicodeEncodeError: if a `str` has a lone surrogate in it.
        """
        if isinstance(data, (bytes, bytearray, memoryview)):
            return bytes(data)
        if isinstance(data, str):
            return data.encode()
        raise TypeError(
            f"raw streams take bytes, bytearray, memoryview or str, not {data.__class__.__name__}"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Raw):
            return NotImplemented
        return self.media_type == other.media_type

    def __hash__(self) -> int:
        return hash(self.media_type)

    def __repr__(self) -> str:
        return f"Raw({self.media_type!r})"
