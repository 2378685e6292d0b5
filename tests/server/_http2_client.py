"""An HTTP/2 client that does what it is told to, and nothing by itself.

It opens no window unless told so, and it can send frames that h2 would refuse to send.
"""

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio


class Peer:
    """One HTTP/2 connection, by prior knowledge.

    Args:
        stream: a Trio stream to the server.
        grants: whether it gives back the windows for what it has read.
        settings: those of HTTP/2, by name, such as ``initial_window_size``.

    Attributes:
        h2: the state machine.
        bodies, statuses, headers: what has come, by stream.
        ended: streams that the server has ended with END_STREAM.
        resets: the error codes of those that it has reset.
        goaway: the last GOAWAY, as h2's event, or None.
        closed: whether the server has closed the connection.
    """

    def __init__(self, stream, *, grants=True, **settings):
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        codes = h2.settings.SettingCodes
        values = {codes[name.upper()]: value for name, value in settings.items()}
        self.h2.local_settings.update(values)
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.grants = grants
        self.bodies, self.statuses, self.headers = {}, {}, {}
        self.ended, self.resets = set(), {}
        self.goaway = None
        self.pongs = 0
        self.closed = False
        self._kept = b""  # of a frame, as far as it has come

    async def flush(self, more=b""):
        """Send what is waiting to be sent, and then `more`."""
        await self.stream.send_all(self.h2.data_to_send() + more)

    async def send(self, *frames):
        """Send frames behind h2's back."""
        await self.flush(b"".join(frame.serialize() for frame in frames))

    def open(self, path="/", *headers, method="GET", ended=True, **pseudo):
        """Put a request among what is waiting to be sent; return the number of its stream.

        A pseudo header that is given as None is left out.
        """
        fields = {"method": method, "path": path, "scheme": "http", "authority": "localhost"}
        fields |= pseudo
        number = self.h2.get_next_available_stream_id()
        head = [(f":{name}", value) for name, value in fields.items() if value is not None]
        self.h2.send_headers(number, [*head, *headers], end_stream=ended)
        self.bodies[number] = b""
        return number

    async def get(self, path="/", *headers, **pseudo):
        """Send a request; return the number of its stream."""
        number = self.open(path, *headers, **pseudo)
        await self.flush()
        return number

    async def receive(self):
        """Take what comes next."""
        try:
            data = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.closed = True
            return
        for frame in self._frames(data):
            for event in self.h2.receive_data(frame):
                await self._take(event)
        try:
            await self.flush()
        except trio.BrokenResourceError:
            self.closed = True

    def _frames(self, data):
        """Yield the frames that are complete: h2 refuses what comes in one piece with GOAWAY."""
        self._kept += data
        while len(self._kept) >= 9 and len(self._kept) >= (
            size := 9 + int.from_bytes(self._kept[:3], "big")
        ):
            frame, self._kept = self._kept[:size], self._kept[size:]
            yield frame

    async def _take(self, event):
        number = getattr(event, "stream_id", None)
        if isinstance(event, h2.events.ResponseReceived):
            self.headers[number] = dict(event.headers)
            self.statuses[number] = int(self.headers[number][":status"])
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[number] += event.data
            if self.grants and number not in self.ended:
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(number)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[number] = event.error_code
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
            # h2 takes nothing more from here on; RFC 9113 § 6.8 has streams go on.
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    async def until(self, condition, *, timeout=15):
        """Take what comes until `condition()` is true, and return that."""
        with trio.move_on_after(timeout):
            while not (result := condition()):
                assert not self.closed, "the server has closed the connection"
                await self.receive()
            return result
        raise AssertionError(f"not within {timeout} s")

    async def finished(self, number, *, timeout=15):
        """Take what comes until the stream has ended in one way or another; return its body."""
        await self.until(lambda: number in self.ended or number in self.resets, timeout=timeout)
        return self.bodies[number]

    async def until_closed(self, *, timeout=15):
        """Take what comes until the server closes the connection."""
        await self.until(lambda: self.closed, timeout=timeout)

    async def fence(self):
        """Wait until the server has taken all that was sent."""
        before = self.pongs
        self.h2.ping(b"fence...")
        await self.flush()
        await self.until(lambda: self.pongs > before)

    async def grant(self, number, size):
        """Open a stream's window, if it is not 0, and the connection's."""
        self.h2.increment_flow_control_window(size)
        if number:
            self.h2.increment_flow_control_window(size, number)
        await self.flush()
