"""Bound what h2 and hpack keep of an HTTP/2 client.

* Unknown settings are dropped, as RFC 9113 § 6.5.2 asks. h2 keeps them for ever: 65,536 ids, each
  with a queue of its own.
* The table of sent headers has at most 4 KiB; the client's limit need not be used (RFC 7541 § 4.2).
  hpack makes the table as large as the client allows, up to 4 GiB.
* Of the changes of that limit, only the smallest and the last are kept: these have to be announced
  with the next response. hpack keeps every change until then.
* A header block that is too long can end the connection before its last frame has come
  (`unfinished_head`). h2 keeps its frames until the end, up to 64 of 16 KiB. Read by HPACK, a block
  usually becomes longer, and that length has a bound.
* Of the last 2,000 streams it is remembered how they were closed, for frames that come late. h2
  remembers 65,536, in 7.5 MiB.
"""

from __future__ import annotations

from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from h2.utilities import SizeLimitDict

_KNOWN = frozenset(int(code) for code in SettingCodes)
_TABLE_SIZE = 4096  # RFC 9113 § 6.5.2: what it is until a client sets it


_CLOSED_STREAMS = 2000  # 0.2 MiB


def keep_little(connection: H2Connection, most_of_a_head: int) -> None:
    """Bound what is kept of a client. Call it before anything is received.

    Args:
        connection: h2's connection.
        most_of_a_head: the most bytes of a request's fields, with 32 added for each field.
    """
    # h2 would use its own default until the client acknowledges ours.
    connection.decoder.max_header_list_size = most_of_a_head
    connection.remote_settings = PeerSettings()
    closed = SizeLimitDict(size_limit=_CLOSED_STREAMS)
    # Only a subclass of h2's connection could set this limit, and Hypercorn makes the connection.
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
    """Forget those sizes of the table of sent headers that need not be announced to the client."""
    sizes = connection.encoder.table_size_changes
    if len(sizes) > 2:
        sizes[:] = [min(sizes), sizes[-1]]


def unfinished_head(connection: H2Connection) -> int:
    """Return how many bytes of an unfinished header block have come."""
    return sum(len(frame.data) for frame in connection.incoming_buffer._headers_buffer)
