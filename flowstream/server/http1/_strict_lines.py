"""The lines of HTTP/1.1 that h11 reads with more leniency than a proxy does.

* A CR within the line of a chunk's size. To a proxy that takes it for the line's end the chunk
  begins there (RFC 9112 § 2.2).
* A header that goes on in the next line ("obsolete folding"). To a proxy that line may be a header
  of its own (RFC 9112 § 5.2).
* Several lengths, be they the same (RFC 9112 § 6.3).

And a head may have so many fields and no more, which h11 counts in bytes alone.
"""

from __future__ import annotations

from h11 import LocalProtocolError

from flowstream.server._hypercorn import ReceiveBuffer

_LENGTH = b"content-length:"


class StrictLines(ReceiveBuffer):
    """h11's buffer of what has come, from which it takes lines.

    Args:
        most_fields: that a head, or trailers, may have.
    """

    def __init__(self, most_fields: int) -> None:
        super().__init__()
        self._most_lines = most_fields + 1  # the first line is the request's

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line of a chunk's size if it has come.

        Raises:
            LocalProtocolError: there is a CR in it. h11 makes it the client's fault.
        """
        line = super().maybe_extract_next_line()
        if line is not None and b"\r" in line[:-2]:
            raise LocalProtocolError("a bare CR in the line of a chunk's size")
        return line

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return the lines of a head, or of trailers, if all have come.

        Raises:
            LocalProtocolError: there are too many, one goes on in the next, or there are several
                lengths. h11 makes it the client's fault.
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
