"""Keep the uploads of one HTTP/2 client until its applications receive them; open its windows.

A window is a promise of memory. With 64 KiB for each of a hundred streams (RFC 9113 § 6.9.2) it is
6.4 MiB a connection, and twice that if a window is opened before the application has the data. One
window for all would be a bound, but an upload that nobody reads would stop all others. So:

* A stream's window is opened when its application has received the data, and not before.
* Each stream may keep `LEAST` here, whatever the others do. Beyond that all share `SHARED`, in
  equal parts. An upload that nobody reads fills its own part; the others go on with theirs.
* A few uploads at a time need none of this: they have the windows that HTTP/2 begins with. When too
  much is promised, the client is told to begin streams with `LEAST`. Until it acknowledges that,
  which takes a round trip, the connection's own window bounds all of them.

::

    WIDE ── too much is promised ──► CROWDED ── told ──► NARROWING ── acknowledged ──► NARROW

Small frames are joined, so that frames of one byte make no more messages than large frames do.
"""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, auto

from h2.connection import H2Connection
from h2.settings import SettingCodes

from flowstream.server.http3._stream_upload import CREDIT

INITIAL = 65_535  # a stream's window, until a setting says otherwise
LEAST = 1024
SHARED = 128 * 1024


class Windows(Enum):
    """The state of a connection's windows."""

    WIDE = auto()
    CROWDED = auto()
    NARROWING = auto()
    NARROW = auto()


class Upload:
    """The DATA of one stream.

    Attributes:
        ended: whether the client has sent END_STREAM.
        told: whether the application was told so.
        feeding: whether a task is handing the data over.
    """

    __slots__ = ("_data", "_given", "_size", "_window", "ended", "feeding", "told")

    def __init__(self, window: int) -> None:
        self._data = bytearray()
        self._size = 0  # of the frames that `_data` came in, with their padding
        self._given = 0  # of the frames that were handed over, but not received yet
        self._window = window  # may be below 0 after it was narrowed: RFC 9113 § 6.9.2
        self.ended = False
        self.told = False
        self.feeding = False

    @property
    def waiting(self) -> bool:
        """Whether there is anything to hand over."""
        return bool(self._size)

    @property
    def promised(self) -> int:
        """Bytes that are here, or that the window lets come."""
        return self.unread + (0 if self.ended else max(0, self._window))

    @property
    def unread(self) -> int:
        """Bytes that the application has not received yet."""
        return self._size + self._given

    def take(self) -> bytes:
        """Return all data to hand over."""
        data = bytes(self._data)
        self._data.clear()
        self._given += self._size
        self._size = 0
        return data

    def _add(self, data: bytes, size: int) -> None:
        self._data += data
        self._size += size
        self._window -= size

    def _received(self) -> int:
        size, self._given = self._given, 0
        return size


class Uploads:
    """All uploads of one connection.

    Args:
        connection: h2's connection, whose windows are opened.

    Attributes:
        state: the state of its windows.
    """

    def __init__(self, connection: H2Connection) -> None:
        self._connection = connection
        self._uploads: dict[int, Upload] = {}
        self._above = 0  # bytes promised beyond `LEAST`, of all uploads
        self._coming = 0  # uploads that have not ended
        self._withheld = 0  # bytes of the connection's window, until the streams' are narrow
        self._credit = 0  # bytes to give to the connection's window
        self._answered = False  # whether the client has acknowledged the first settings
        self.state = Windows.WIDE

    def get(self, stream_id: int) -> Upload | None:
        """Return the upload on a stream, if there is one."""
        return self._uploads.get(stream_id)

    def open(self, stream_id: int) -> None:
        """Begin an upload: a request that has a body."""
        upload = Upload(LEAST if self.state is Windows.NARROW else INITIAL)
        self._uploads[stream_id] = upload
        self._coming += 1
        self._above += _above(upload.promised)
        if self.state is Windows.NARROW:
            self._grant(stream_id, upload)

    def close(self, stream_id: int) -> Upload | None:
        """Forget the upload on a stream; return it, if there was one."""
        upload = self._uploads.pop(stream_id, None)
        if upload is not None:
            self._above -= _above(upload.promised)
            self._coming -= not upload.ended
            self._open_connection(upload.unread)
        return upload

    def arrived(self, stream_id: int, data: bytes, size: int) -> Upload | None:
        """Add a frame's data, whose `size` counts against the windows.

        Returns the upload, if it got any data. Data for a stream without an upload is dropped.
        """
        upload = self._uploads.get(stream_id)
        if upload is not None and size:
            upload._add(data, size)
        if upload is not None and self.state in (Windows.CROWDED, Windows.NARROWING):
            self._withheld += size
        else:
            # Unwanted data, too, counts against the connection's window (RFC 9113 § 6.9).
            self.give_back(size)
        return upload if size else None

    def end(self, stream_id: int) -> Upload | None:
        """Note that the client has ended the upload on a stream; return it."""
        upload = self._uploads.get(stream_id)
        if upload is not None and not upload.ended:
            self._above -= _above(upload.promised)
            upload.ended = True
            self._coming -= 1
            self._above += _above(upload.promised)
        return upload

    def received(self, stream_id: int) -> bool:
        """Note that an application has received all that was handed over.

        Returns:
            Whether a window was opened, and the client is to be told.

        Raises:
            h2.exceptions.ProtocolError: the stream has ended.
        """
        upload = self._uploads.get(stream_id)
        if upload is None:
            return False
        before = _above(upload.promised)
        size = upload._received()
        self._above += _above(upload.promised) - before
        told = self._open_connection(size)
        return self._grant(stream_id, upload) or told

    def settle(self) -> None:
        """Tell the client to use narrower windows, if too much is promised."""
        if self.state is Windows.WIDE and self._above > SHARED:
            self.state = Windows.CROWDED
        # h2 counts the next acknowledgement for all settings, so wait for the first one.
        if self.state is Windows.CROWDED and self._answered:
            self._connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: LEAST})
            self.state = Windows.NARROWING

    def acknowledged(self, changed: Container[int]) -> None:
        """Note that the client has acknowledged settings; those in `changed` now hold."""
        self._answered = True
        if self.state is Windows.NARROWING and SettingCodes.INITIAL_WINDOW_SIZE in changed:
            self.state = Windows.NARROW
            for upload in self._uploads.values():
                upload._window -= INITIAL - LEAST
            self._above = sum(_above(upload.promised) for upload in self._uploads.values())
            self.give_back(self._withheld)
            self._withheld = 0
            for stream_id, upload in self._uploads.items():
                self._grant(stream_id, upload)

    def _grant(self, stream_id: int, upload: Upload) -> bool:
        """Open a stream's window as far as it may be; return whether it was opened."""
        if upload.ended or self.state in (Windows.CROWDED, Windows.NARROWING):
            return False
        if stream_id not in self._connection.streams:
            return False  # h2 has closed and forgotten it
        most = INITIAL
        if self.state is Windows.NARROW:
            part = max(LEAST, min(INITIAL, SHARED // max(1, self._coming)))
            most = min(part, max(LEAST, upload.promised + SHARED - self._above))
        size = most - upload.unread - upload._window
        if most <= upload.promised or size < min(CREDIT, most // 2):
            return False
        self._above -= _above(upload.promised)
        upload._window += size
        self._above += _above(upload.promised)
        self._connection.increment_flow_control_window(size, stream_id)
        return True

    def _open_connection(self, size: int) -> bool:
        """Give back up to `size` withheld bytes of the connection's window."""
        size = min(size, self._withheld)
        self._withheld -= size
        return self.give_back(size)

    def give_back(self, size: int) -> bool:
        """Add `size` to the connection's credit; return whether its window was opened by it."""
        self._credit += size
        if self._credit < CREDIT:
            return False
        self._connection.increment_flow_control_window(self._credit)
        self._credit = 0
        return True


def _above(promised: int) -> int:
    return max(0, promised - LEAST)
