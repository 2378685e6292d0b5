"""What a client has sent on one HTTP/3 stream and its application has not yet taken.

A task of the stream's own hands it over, so that an upload that nobody reads holds up no other
stream. The stream's window is opened when the data has been handed over. The small frames in
between are put together. HTTP/2, whose windows are bounded together, has `Uploads`.
"""

from __future__ import annotations

# Credit for less than this is not worth a WINDOW_UPDATE. A quarter of the default window
# (RFC 9113 § 6.9.2), so the client never waits for what is held back.
CREDIT = 16 * 1024


class StreamUpload:
    """The DATA of one stream that waits to be handed over.

    Attributes:
        ended: the client has sent END_STREAM.
        feeding: a task is handing the data over.
    """

    __slots__ = ("_credit", "_data", "_size", "ended", "feeding")

    def __init__(self) -> None:
        self._data = bytearray()
        self._size = 0  # of the frames that `_data` came in, with their padding
        self._credit = 0
        self.ended = False
        self.feeding = False

    def add(self, data: bytes, size: int) -> None:
        """Add a frame's data; its `size` counts against the window."""
        self._data += data
        self._size += size

    @property
    def waiting(self) -> bool:
        """Whether anything is left to be handed over."""
        return bool(self._size)

    def take(self) -> bytes:
        """Return all that is here; once it is handed over, `credit` says what to credit."""
        data = bytes(self._data)
        self._data.clear()
        self._credit += self._size
        self._size = 0
        return data

    def credit(self) -> int:
        """Return by how much to open the window for what was taken: 0 for not yet."""
        credit = self._credit
        if credit < CREDIT:
            return 0
        self._credit = 0
        return credit
