"""An HTTP/3 client that does what it is told to, with aioquic's state machines."""

import aioquic.h3.connection
import aioquic.h3.events
import aioquic.quic.configuration
import aioquic.quic.connection
import aioquic.quic.events
import aioquic.tls
import trio

GET = {"method": b"GET", "scheme": b"https", "authority": b"127.0.0.1", "path": b"/"}


class Client:
    """HTTP/3 over a UDP socket.

    Attributes:
        statuses, bodies, resets: what has come, by stream; a reset's code.
        ended: streams that the server has ended.
        stopped: streams of which it wants nothing more.
        closed: the event that the connection ended with, or None.
    """

    def __init__(self, port, authority):
        configuration = aioquic.quic.configuration.QuicConfiguration(
            alpn_protocols=["h3"], server_name="127.0.0.1"
        )
        configuration.load_verify_locations(cadata=authority.cert_pem.bytes())
        self._address = ("127.0.0.1", port)
        self.quic = aioquic.quic.connection.QuicConnection(configuration=configuration)
        self._socket = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        self.statuses, self.bodies, self.resets = {}, {}, {}
        self.ended, self.stopped, self.closed, self._pongs = set(), set(), None, set()
        self._begun = False

    async def get(self, path="/", **fields):
        """Ask for `path`; return the body."""
        number = await self.ask(path=path.encode(), **fields)
        return await self.finished(number)

    async def ask(self, *more, ended=True, **pseudo):
        """Send a request; return the number of its stream."""
        pseudo = {**GET, **pseudo}
        head = [(b":" + k.encode(), v) for k, v in pseudo.items() if v is not None]
        return await self.send_fields([*head, *more], ended=ended)

    async def send_fields(self, fields, *, ended=True):
        """Send a request with exactly these fields."""
        if not self._begun:
            self._begun = True
            await self._socket.bind(("127.0.0.1", 0))
            self.quic.connect(self._address, now=trio.current_time())
            self.http = aioquic.h3.connection.H3Connection(self.quic)
        number = self.quic.get_next_available_stream_id()
        self.bodies[number] = b""
        self.http.send_headers(number, fields, end_stream=ended)
        await self.flush()
        return number

    async def finished(self, number):
        """Read until a stream has ended in one way or another; return its body."""
        await self.until(lambda: number in self.ended or number in self.resets or self.closed)
        return self.bodies[number]

    async def fence(self):
        """Wait until the server has taken all that was sent."""
        uid = len(self._pongs) + 1
        self.quic.send_ping(uid)
        await self.until(lambda: uid in self._pongs or self.closed)

    async def until(self, condition):
        """Read until `condition()` is true."""
        with trio.fail_after(10):
            await self.flush()
            while not condition():
                with trio.move_on_at(self.quic.get_timer() or trio.current_time() + 1):
                    data, address = await self._socket.recvfrom(65536)
                    self.quic.receive_datagram(data, address, now=trio.current_time())
                self.quic.handle_timer(now=trio.current_time())
                while (event := self.quic.next_event()) is not None:
                    self._take(event)
                await self.flush()

    def _take(self, event):
        for answer in self.http.handle_event(event):
            number = answer.stream_id
            if isinstance(answer, aioquic.h3.events.HeadersReceived):
                self.statuses[number] = int(dict(answer.headers)[b":status"])
            elif isinstance(answer, aioquic.h3.events.DataReceived):
                self.bodies[number] += answer.data
            if answer.stream_ended:
                self.ended.add(number)
        if isinstance(event, aioquic.quic.events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, aioquic.quic.events.StopSendingReceived):
            self.stopped.add(event.stream_id)
        elif isinstance(event, aioquic.quic.events.PingAcknowledged):
            self._pongs.add(event.uid)
        elif isinstance(event, aioquic.quic.events.ConnectionTerminated):
            self.closed = event

    async def flush(self):
        """Send what is waiting to be sent."""
        for data, address in self.quic.datagrams_to_send(now=trio.current_time()):
            await self._socket.sendto(data, address)

    async def close(self):
        """Say goodbye and close the socket."""
        if self._begun:
            self.quic.close()
            await self.flush()
        self._socket.close()
