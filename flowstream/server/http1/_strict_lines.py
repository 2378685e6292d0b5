"""Refuse lines of HTTP/1.1 that h11 accepts, though a proxy may read them differently.

* A CR inside the line of a chunk's size. A proxy may take it for the end of the line, and begin
  the chunk there (RFC 9112 § 2.2).
* A header that continues on the next line ("obsolete folding"). A proxy may take that line for
  another header (RFC 9112 § 5.2).
* Several lengths, even equal ones (RFC 9112 § 6.3).

A head with too many fields is refused, too. h11 bounds only its bytes.
"""

from __future__ import annotations

from h11 import LocalProtocolError

from flowstream.server._hypercorn import ReceiveBuffer

_LENGTH = b"content-length:"


class StrictLines(ReceiveBuffer):
    """h11's buffer of received bytes, from which it takes lines.

    Args:
        most_fields: how many fields a head, or trailers, may have.
    """

    def __init__(self, most_fields: int) -> None:
        super().__init__()
        self._most_lines = most_fields + 1  # the first line is the request's

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line of a chunk's size, once it has come.

        Raises:
            LocalProtocolError: the line has a CR in it. h11 turns this into the client's fault.
        """
        line = super().maybe_extract_next_line()
        if line is not None and b"\r" in line[:-2]:
            raise LocalProtocolError("a bare CR in the line of a chunk's size")
        return line

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head, or of trailers, once all have come.

        Raises:
            LocalProtocolError: there are too many lines, a line continues the one before, or there
                are several lengths. h11 turns this into the client's fault.
        """
        lines = super().maybe_extract_lines()
        if lines is not None and len(lines) > self._most_lines:
            raise LocalProtocolError("too many header fields", error_status_hint=431)
        lengths = 0
        for line in lines or ():
            if line.startswith((b" ", b"\t")):
                raise LocalProtocolError("a header that goes on in the next line")
            if line[: len(_LENGTH)].lower() == _LENGTH:
                lengths += 1 + line.count(b",")
        if lengths > 1:
            raise LocalProtocolError("more than one Content-Length")
        return lines
