"""Check the bound of a WebSocket message before any of it is stored.

A bound that is checked after storing would be useless: a frame may announce a terabyte, and half a
megabyte of deflate (RFC 7692) may expand to half a gigabyte. wsproto shows its extensions each
frame's header and payload as they come, so the bound is an extension: `MessageBound`. It refuses

* a frame whose header announces more than the message may still have;
* compressed data, as soon as it expands to more than the message may still have.

Either ends the connection with 1009 (RFC 6455 § 7.4.1). The same extension does permessage-deflate,
for two reasons: only the decoder knows what the data expands to, and wsproto's own forgets that a
message is compressed when a ping comes between its frames, which RFC 6455 § 5.4 allows.

`Pieces` keeps the parts of a message. It keeps text as UTF-8, since a `str` takes up to four times
as much. So does the inbox, until the application receives the message.
"""

from __future__ import annotations

import re
import zlib
from io import BytesIO
from typing import Any

from wsproto.events import Message, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

_NONE = RsvBits(False, False, False)
_TAIL = b"\x00\x00\xff\xff"  # the sender leaves it out at a message's end (RFC 7692 § 7.2.2)
_SHORT = 1024  # a text so short that the bytes of a character don't matter
_RESTARTS = 16  # final blocks in one message; RFC 7692 § 7.2.3.4 has an example with one

# RFC 7692 § 7.1: the parameters of an offer.
_PARAMETER = re.compile(
    r"(?P<name>(server|client)_no_context_takeover"
    r"|server_max_window_bits(?==)|client_max_window_bits)"
    r"(?:(?<=_bits)=(?:[89]|1[0-5]))?"
)


class MessageBound(PerMessageDeflate):
    """Bounds each message, compressed or not. Does permessage-deflate, if that is agreed on.

    Args:
        most: bytes that one message may have, after decompression.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._left = most  # bytes that the current message may still have
        self._is_control = False
        self._is_compressed = False  # the current message
        self._inflate: zlib._Decompress | None = None
        self._restarts = 0

    @property
    def compresses(self) -> bool:
        """Whether permessage-deflate was agreed on."""
        return self._enabled

    def enabled(self) -> bool:
        """Return True: the bound always holds."""
        return True

    def accept(self, offer: str) -> str | None:
        """Accept the first offer that follows RFC 7692; return None to decline this one."""
        if self._enabled or not _is_valid(offer):
            return None
        accepted = super().accept(offer)
        return accepted if isinstance(accepted, str) else None

    def close(self) -> None:
        """Free both windows. Nothing may be read or sent after this."""
        self._inflate = self._compressor = None

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Refuse a frame that makes the message too long."""
        self._is_control = opcode.iscontrol()
        if self._is_control:
            return _NONE
        if opcode is not Opcode.CONTINUATION:
            self._left, self._restarts = self._most, 0
            self._is_compressed = self._enabled and rsv.rsv1
        elif rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        if not self._is_compressed and payload_length > self._left:
            return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(self._enabled, False, False)

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Decompress, and count the bytes; return MESSAGE_TOO_BIG if they are too many."""
        if self._is_control:
            return data
        if self._is_compressed:
            return self._inflated(data)
        self._left -= len(data)
        return data

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """Decompress the rest when a message is complete."""
        if self._is_control or not fin or not self._is_compressed:
            return None
        last = self._inflated(_TAIL)
        if self.client_no_context_takeover:
            self._inflate = None
        return last

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        """Compress, if that was agreed on."""
        if not self._enabled:
            return rsv, data
        return super().frame_outbound(proto, opcode, rsv, data, fin)

    def _inflated(self, data: bytes) -> bytes | CloseReason:
        found = b""
        while True:
            if self._inflate is None:
                self._inflate = zlib.decompressobj(-self.client_max_window_bits)
            try:
                # Ask for one byte too many, to see whether there is more.
                found += self._inflate.decompress(data, self._left + 1 - len(found))
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            if len(found) > self._left:
                return CloseReason.MESSAGE_TOO_BIG
            if not self._inflate.eof:
                self._left -= len(found)
                return found
            # A final block. Data after it begins a new stream, which zlib would only collect.
            data, self._inflate = self._inflate.unused_data, None
            self._restarts += 1
            if self._restarts > _RESTARTS:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA


def _is_valid(offer: str) -> bool:
    _, *parameters = (part.strip() for part in offer.split(";"))
    found = [_PARAMETER.fullmatch(parameter) for parameter in parameters]
    names = [match["name"] for match in found if match is not None]
    return len(names) == len(found) == len(set(names))


class Pieces:
    """The parts of one message, until all of them are here.

    Attributes:
        size: the bytes kept.
    """

    __slots__ = ("_is_text", "_stored", "size")

    def __init__(self) -> None:
        self._is_text = False
        self._stored: BytesIO | None = None
        self.size = 0

    def add(self, event: Message[Any]) -> dict[str, Any] | None:
        """Store a piece; return the ASGI message if it was the last one.

        The message's text stays UTF-8 if a `str` would take more memory.
        """
        data = event.data
        if event.message_finished and self._stored is None:
            if isinstance(event, TextMessage):
                text = data if data.isascii() or len(data) < _SHORT else data.encode()
                return {"type": "websocket.receive", "bytes": None, "text": text}
            return {"type": "websocket.receive", "bytes": bytes(data), "text": None}
        if self._stored is None:
            self._stored, self._is_text = BytesIO(), isinstance(event, TextMessage)
        self.size += self._stored.write(data.encode() if isinstance(data, str) else data)
        if not event.message_finished:
            return None
        whole, self._stored, self.size = self._stored.getvalue(), None, 0
        if self._is_text:
            text = whole.decode() if len(whole) < _SHORT or whole.isascii() else whole
            return {"type": "websocket.receive", "bytes": None, "text": text}
        return {"type": "websocket.receive", "bytes": whole, "text": None}
