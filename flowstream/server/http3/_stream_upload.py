"""Keep the upload on one HTTP/3 stream until its application receives it.

Each stream has its own task that hands the data over, so an upload that nobody reads delays no
other stream. The stream's window is opened when the data has been handed over. Small frames that
come meanwhile are joined. HTTP/2 has `Uploads`, which bounds all windows of a connection together.
"""

from __future__ import annotations

# Bytes of credit that are worth a WINDOW_UPDATE. They are a quarter of the default window
# (RFC 9113 § 6.9.2), so the client never waits for the credit that is held back.
CREDIT = 16 * 1024


class StreamUpload:
    """The DATA of one stream that waits to be handed over.

    Attributes:
        ended: whether the client has sent END_STREAM.
        feeding: whether a task is handing the data over.
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
        """Whether there is anything to hand over."""
        return bool(self._size)

    def take(self) -> bytes:
        """Return all data that waits. Call `credit` when it has been handed over."""
        data = bytes(self._data)
        self._data.clear()
        self._credit += self._size
        self._size = 0
        return data

    def credit(self) -> int:
        """Return by how many bytes to open the window now, for data that was taken; 0 for none."""
        credit = self._credit
        if credit < CREDIT:
            return 0
        self._credit = 0
        return credit
