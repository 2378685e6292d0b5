"""What one HTTP/2 client has sent and its applications have not yet received, and its windows.

A window is a promise of memory. With 64 KiB for each of a hundred streams (RFC 9113 § 6.9.2) it is
6.4 MiB a connection, and twice that where the window is opened before the application has the data.
One window for all would be a bound, but an upload that nobody reads would stop all others. So:

* A stream's window is opened when its application has received the data, and not before.
* Every stream may have `LEAST` here, whatever the others do. Beyond it they share `SHARED`, each
  the same part. An upload that nobody reads keeps its own part; the others go on with theirs.
* Few uploads at a time need none of this: they have the windows that HTTP/2 begins with. When more
  is promised than may be, the client is told to begin streams with `LEAST`. Until it acknowledges
  that, which takes a round trip, the connection's own window holds all of them.

::

    WIDE ── too much is promised ──► CROWDED ── told ──► NARROWING ── acknowledged ──► NARROW

Small frames are put together, so that a byte a frame makes no more messages than a window a frame.
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
    """How the windows of a connection stand."""

    WIDE = auto()
    CROWDED = auto()
    NARROWING = auto()
    NARROW = auto()


class Upload:
    """The DATA of one stream.

    Attributes:
        ended: the client has sent END_STREAM.
        told: the application was told so.
        feeding: a task is handing the data over.
    """

    __slots__ = ("_data", "_given", "_size", "_window", "ended", "feeding", "told")

    def __init__(self, window: int) -> None:
        self._data = bytearray()
        self._size = 0  # of the frames that `_data` came in, with their padding
        self._given = 0  # of those that were handed over, and not yet received
        self._window = window  # below 0 when it was narrowed: RFC 9113 § 6.9.2
        self.ended = False
        self.told = False
        self.feeding = False

    @property
    def waiting(self) -> bool:
        """Whether anything is left to be handed over."""
        return bool(self._size)

    @property
    def promised(self) -> int:
        """How much is here, or may come."""
        return self.unread + (0 if self.ended else max(0, self._window))

    @property
    def unread(self) -> int:
        """How much is here."""
        return self._size + self._given

    def take(self) -> bytes:
        """Return all that is to be handed over."""
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
        connection: h2's, whose windows are opened.

    Attributes:
        state: how its windows stand.
    """

    def __init__(self, connection: H2Connection) -> None:
        self._connection = connection
        self._uploads: dict[int, Upload] = {}
        self._above = 0  # what is promised beyond `LEAST`, of all together
        self._coming = 0  # uploads that have not ended
        self._withheld = 0  # of the connection's window, until the streams' are narrow
        self._credit = 0  # for the connection's window
        self._answered = False  # the settings that the connection began with are acknowledged
        self.state = Windows.WIDE

    def get(self, stream_id: int) -> Upload | None:
        """Return the upload on a stream, if there is one."""
        return self._uploads.get(stream_id)

    def open(self, stream_id: int) -> None:
        """Begin with a request that has a body."""
        upload = Upload(LEAST if self.state is Windows.NARROW else INITIAL)
        self._uploads[stream_id] = upload
        self._coming += 1
        self._above += _above(upload.promised)
        if self.state is Windows.NARROW:
            self._grant(stream_id, upload)

    def close(self, stream_id: int) -> Upload | None:
        """Forget what has come on a stream; return its upload, if there was one."""
        upload = self._uploads.pop(stream_id, None)
        if upload is not None:
            self._above -= _above(upload.promised)
            self._coming -= not upload.ended
            self._open_connection(upload.unread)
        return upload

    def arrived(self, stream_id: int, data: bytes, size: int) -> Upload | None:
        """Add a frame's data, whose `size` counts against the windows.

        Returns the upload, if there is anything new in it. Data for others is dropped.
        """
        upload = self._uploads.get(stream_id)
        if upload is not None and size:
            upload._add(data, size)
        if upload is not None and self.state in (Windows.CROWDED, Windows.NARROWING):
            self._withheld += size
        else:
            # Data that nobody wants still counts against it (RFC 9113 § 6.9).
            self.give_back(size)
        return upload if size else None

    def end(self, stream_id: int) -> Upload | None:
        """Note that the client has nothing more to send on a stream; return its upload."""
        upload = self._uploads.get(stream_id)
        if upload is not None and not upload.ended:
            self._above -= _above(upload.promised)
            upload.ended = True
            self._coming -= 1
            self._above += _above(upload.promised)
        return upload

    def received(self, stream_id: int) -> bool:
        """Note that an application has received all that was handed over; return whether the
        client is to be told of a window.

        Raises:
            h2.exceptions.ProtocolError: the stream is over.
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
        """Tell the client of narrower windows if too much is promised."""
        if self.state is Windows.WIDE and self._above > SHARED:
            self.state = Windows.CROWDED
        # h2 takes the next acknowledgement for that of all settings.
        if self.state is Windows.CROWDED and self._answered:
            self._connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: LEAST})
            self.state = Windows.NARROWING

    def acknowledged(self, changed: Container[int]) -> None:
        """Note that the client has acknowledged settings, by which `changed` hold now."""
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
        """Open a stream's window to what it may have; return whether that was done."""
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
        """Give back what was withheld of the connection's window."""
        size = min(size, self._withheld)
        self._withheld -= size
        return self.give_back(size)

    def give_back(self, size: int) -> bool:
        """Open the connection's window for what is not kept; return whether that was done."""
        self._credit += size
        if self._credit < CREDIT:
            return False
        self._connection.increment_flow_control_window(self._credit)
        self._credit = 0
        return True


def _above(promised: int) -> int:
    return max(0, promised - LEAST)
