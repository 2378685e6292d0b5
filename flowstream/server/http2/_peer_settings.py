"""What is kept of an HTTP/2 client by h2 and hpack: few values, and of a bounded size.

* h2 keeps settings that nobody knows, for ever: 65,536 ids, each with a queue of its own. They are
  to be ignored (RFC 9113 § 6.5.2).
* hpack makes its table of sent headers as large as the client allows, up to 4 GiB. It need not use
  what it is allowed (RFC 7541 § 4.2).
* hpack notes every change of that size until the next response. It has to tell of the smallest and
  of the last one alone.
* h2 keeps the frames of a header block until its end, up to 64 of 16 KiB. It may be cut off before:
  what HPACK makes of a block is longer, as a rule, and that is bounded.
* h2 remembers how each of the last 65,536 streams was closed, for frames that come late: 7.5 MiB.
"""

from __future__ import annotations

from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from h2.utilities import SizeLimitDict

_KNOWN = frozenset(int(code) for code in SettingCodes)
_TABLE_SIZE = 4096  # RFC 9113 § 6.5.2: what it is until a client sets it


_CLOSED_STREAMS = 2000  # 0.2 MiB


def keep_little(connection: H2Connection, most_of_a_head: int) -> None:
    """Bound what is kept of a client. For a connection on which nothing was received yet.

    Args:
        connection: h2's.
        most_of_a_head: bytes of a request's fields, each counted with 32 more.
    """
    # h2 would take its own default until the client acknowledges ours.
    connection.decoder.max_header_list_size = most_of_a_head
    connection.remote_settings = PeerSettings()
    closed = SizeLimitDict(size_limit=_CLOSED_STREAMS)
    # h2 takes another limit from subclasses alone, and Hypercorn makes the connection.
    connection._closed_streams = closed


class PeerSettings(Settings):
    """A client's settings."""

    def __init__(self) -> None:
        super().__init__(client=True)

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key == SettingCodes.HEADER_TABLE_SIZE:
            value = min(value, _TABLE_SIZE)
        if key in _KNOWN:
            super().__setitem__(key, value)


def forget_table_sizes(connection: H2Connection) -> None:
    """Forget those sizes of the table of sent headers that the client need not be told of."""
    sizes = connection.encoder.table_size_changes
    if len(sizes) > 2:
        sizes[:] = [min(sizes), sizes[-1]]


def unfinished_head(connection: H2Connection) -> int:
    """Return the bytes of a header block that have come without its end."""
    return sum(len(frame.data) for frame in connection.incoming_buffer._headers_buffer)
