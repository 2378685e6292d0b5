"""How a client may speak TLS: which records, cut where, and what is wrong with them.

The records are OpenSSL's, and a plan (`TLS`) says what becomes of them on their way. OpenSSL
encrypts nothing but what an application says; for other records of TLS 1.3, `Sealer` encrypts in
its place.
"""

import contextlib
import ssl
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fuzzing.conversation import TLS

CHANGE_CIPHER, ALERT, HANDSHAKE, APPLICATION, HEARTBEAT = range(20, 25)
ALPN = (
    ("h2", "http/1.1"),
    ("h2",),
    ("http/1.1",),
    (),
    ("http/1.0",),
    ("spdy/3", "h3"),
    ("x" * 255,),
)
KEY_UPDATE = b"\x18\0\0\1"
FAULTS = ("stop", "flip", "type", "version", "length", "before", "repeat", "drop")


def record(kind, payload, version=0x0303):
    """Return a record (RFC 8446 § 5.1)."""
    return struct.pack("!BHH", kind, version, len(payload)) + payload


BEFORE = (
    record(ALERT, b"\1\0"),  # close_notify
    record(ALERT, b"\1\x5a"),  # user_canceled
    record(ALERT, b"\2\x28"),  # handshake_failure
    record(ALERT, b"\1"),
    record(CHANGE_CIPHER, b"\1"),
    record(CHANGE_CIPHER, b"\1") * 40,
    record(CHANGE_CIPHER, b"\2"),
    record(HANDSHAKE, b""),
    record(HANDSHAKE, b"\1\xff\xff\xff"),
    record(HANDSHAKE, KEY_UPDATE + b"\1"),
    record(HANDSHAKE, b"\0\0\0\0"),  # HelloRequest, which is the server's
    record(APPLICATION, b""),
    record(APPLICATION, bytes(100)),
    record(HEARTBEAT, b"\1\x40\0"),
    record(HEARTBEAT, b"\1\x40\0") * 40,
    b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + bytes(37),  # SSL 2
    b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\0" * 5,
)
INSIDE = (
    (HANDSHAKE, KEY_UPDATE + b"\0"),
    (HANDSHAKE, KEY_UPDATE + b"\1"),
    (HANDSHAKE, KEY_UPDATE + b"\2"),
    (HANDSHAKE, b"\1\0\0\x04abcd"),  # ClientHello: renegotiation, which 1.3 does not have
    (HANDSHAKE, b"\x14\0\0\x20" + bytes(32)),  # Finished
    (HANDSHAKE, b"\x04\0\0\x04abcd"),  # NewSessionTicket
    (HANDSHAKE, b"\x18\0"),
    (HANDSHAKE, b""),
    (APPLICATION, b""),
    (ALERT, b"\1\0"),
    (ALERT, b"\1\x5a"),
    (ALERT, b"\2\x0a"),
    (ALERT, b""),
    (CHANGE_CIPHER, b"\1"),
    (HEARTBEAT, b"\1\0\0"),
    (0, b""),  # padding alone, without a type
    (0, bytes(100)),
    (255, b"x"),
    (APPLICATION, bytes(16384)),
    (APPLICATION, bytes(16385)),
)


def way(rng, *, right=False):
    """Return how a client speaks TLS; `right` if nothing is to be wrong with its records."""
    version = rng.choice((1.2, 1.3))
    faults, inside = [], []
    if not right:
        faults = [fault(rng) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
        if version == 1.3 and rng.random() < 0.4:
            times = rng.choice((1, 1, 2, 40))
            inside = [rng.choice(INSIDE) for _ in range(rng.randint(1, 3))] * times
    return TLS(
        alpn=rng.choice(ALPN),
        version=version,
        writes=rng.choice(((), (), (1,), (5, 1, 1000), (3, 200), (1, 4), (4000,), (7,))),
        fragment=rng.choice((0, 0, 0, 1, 4, 50, 300)),
        record=rng.choice((16384, 16384, 1000, 100, 7)),
        faults=tuple(faults),
        inside=tuple(inside),
        close_notify=rng.random() < 0.5,
    )


def fault(rng):
    """Return what is wrong with one record."""
    number = rng.choice((0, 0, 1, 2, 3, 4, 6))
    match what := rng.choice(FAULTS):
        case "stop" | "flip":
            return number, what, rng.randrange(600)
        case "type":
            return number, what, rng.choice((0, 19, 20, 21, 22, 23, 24, 128, 255))
        case "version":
            return number, what, rng.choice((0, 2, 0x0300, 0x0301, 0x0304, 0x7F1C, 0xFFFF))
        case "length":
            return number, what, rng.choice((0, 1, 16384, 16385, 16640, 16641, 65535))
        case "before":
            return number, what, rng.choice(BEFORE)
        case _:
            return number, what, 0


class Stopped(Exception):  # noqa: N818  # no error
    """The plan says that the client sends no more."""


class Outlet:
    """What becomes of the records of OpenSSL on their way to the socket.

    Args:
        plan: what is to become of them.
    """

    def __init__(self, plan):
        self._plan = plan
        self._number = 0  # of the next record
        self._clear = True  # what comes is not encrypted yet
        self._rest = b""

    def pass_on(self, data):
        """Return what is sent in place of `data`, and whether more may be sent."""
        made = []
        self._rest += data
        while len(self._rest) >= 5:
            kind, version, size = struct.unpack("!BHH", self._rest[:5])
            payload, self._rest = self._rest[5 : 5 + size], self._rest[5 + size :]
            if kind == CHANGE_CIPHER:
                self._clear = False
            try:
                made.append(self._changed(kind, version, payload))
            except Stopped as stopped:
                return b"".join(made) + stopped.args[0], False
        return b"".join(made), True

    def _changed(self, kind, version, payload):
        number, self._number = self._number, self._number + 1
        most = self._plan.fragment
        if most and kind == HANDSHAKE and self._clear and len(payload) > most:
            pieces = [payload[at : at + most] for at in range(0, len(payload), most)]
            whole = b"".join(record(kind, piece, version) for piece in pieces)
        else:
            whole = record(kind, payload, version)
        for at, what, value in self._plan.faults:
            if at == number:
                whole = _spoiled(whole, what, value)
        return whole


def _spoiled(whole, what, value):
    if what == "stop":
        raise Stopped(whole[:value])
    if what == "before":
        return value + whole
    if not whole:  # dropped
        return b""
    match what:
        case "flip":
            at = value % len(whole)
            return whole[:at] + bytes((whole[at] ^ (1 << value % 8),)) + whole[at + 1 :]
        case "type":
            return bytes((value,)) + whole[1:]
        case "version":
            return whole[:1] + value.to_bytes(2, "big") + whole[3:]
        case "length":
            return whole[:3] + value.to_bytes(2, "big") + whole[5:]
        case "repeat":
            return whole * 2
    return b""


class Sealer:
    """Encrypts records of any type with the keys of a connection of TLS 1.3 (RFC 8446 § 5.2).

    Args:
        secret: what the client's keys are made of, ``CLIENT_TRAFFIC_SECRET_0`` of a key log.
        cipher: the name of the cipher suite.
    """

    def __init__(self, secret, cipher):
        self._hash = hashes.SHA384() if "SHA384" in cipher else hashes.SHA256()
        self._cipher = ChaCha20Poly1305 if "CHACHA" in cipher else AESGCM
        self._size = 16 if "AES_128" in cipher else 32
        self._set(secret)

    def _set(self, secret):
        self._secret, self._number = secret, 0
        self._key = self._cipher(self._expand("key", self._size))
        self._iv = int.from_bytes(self._expand("iv", 12), "big")

    def _expand(self, label, size):
        name = b"tls13 " + label.encode()
        info = struct.pack("!HB", size, len(name)) + name + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def seal(self, kind, payload):
        """Return a record with `payload`; behind a KeyUpdate the keys are other ones."""
        inner = payload + bytes((kind,))
        head = struct.pack("!BHH", APPLICATION, 0x0303, len(inner) + 16)
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        sealed = head + self._key.encrypt(nonce, inner, head)
        if kind == HANDSHAKE and payload[:4] == KEY_UPDATE:
            self._set(self._expand("traffic upd", self._hash.digest_size))
        return sealed


class Speaker:
    """The client's end of TLS, as a plan has it, over bytes that somebody else carries.

    Args:
        plan: how it speaks.
        key_log: a file, to which OpenSSL writes the secrets.
    """

    def __init__(self, plan, key_log):
        self._plan = plan
        self._key_log = key_log
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = _context(plan, key_log).wrap_bio(self._in, self._out)
        self._outlet = Outlet(plan)
        self._sealer = None
        self._random = None
        self.ready = False
        """Whether the handshake is over."""
        self.over = False
        """Whether one of the sides says that nothing more follows."""

    def _sent(self):
        data = self._out.read()
        if self._random is None and data:
            self._random = data[11:43].hex()
        made, goes_on = self._outlet.pass_on(data)
        self.over = self.over or not goes_on
        return made

    def greet(self):
        """Return what is to be sent for the handshake at this point."""
        if not self.ready and not self.over:
            try:
                self._ssl.do_handshake()
                self.ready = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self.over = True
        made = self._sent()
        if self.ready and self._plan.inside and self._sealer is None and not self.over:
            self._sealer = Sealer(self._secret(), self._ssl.cipher()[0])
            made += b"".join(self._sealer.seal(*one) for one in self._plan.inside)
        return made

    def _secret(self):
        wanted = f"CLIENT_TRAFFIC_SECRET_0 {self._random} "
        with open(self._key_log) as lines:
            return bytes.fromhex(
                next(line[len(wanted) :] for line in lines if line.startswith(wanted))
            )

    def say(self, data):
        """Return the records for `data`."""
        made = b""
        for at in range(0, len(data), self._plan.record):
            piece = data[at : at + self._plan.record]
            if self.over:
                break
            if self._sealer is not None:
                made += self._sealer.seal(APPLICATION, piece)
            else:
                self._ssl.write(piece)
                made += self._sent()
        return made

    def hear(self, data):
        """Take what the server has sent; return what it says."""
        self._in.write(data)
        found = []
        if self.ready:
            try:
                while piece := self._ssl.read(65536):
                    found.append(piece)
                self.over = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self.over = True
        return b"".join(found)

    def end(self):
        """Return what says that the client ends."""
        if not self.ready or self.over or not self._plan.close_notify:
            return b""
        if self._sealer is not None:
            return self._sealer.seal(ALERT, b"\1\0")
        with contextlib.suppress(ssl.SSLError):
            self._ssl.unwrap()
        return self._sent()

    @property
    def protocol(self):
        """The protocol that was agreed on, or None."""
        return self._ssl.selected_alpn_protocol() if self.ready else None


_contexts = {}  # {(version, ALPN, key log): SSLContext}


def _context(plan, key_log):
    logs = key_log if plan.inside else None
    if (key := (plan.version, plan.alpn, logs)) not in _contexts:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        version = ssl.TLSVersion.TLSv1_3 if plan.version == 1.3 else ssl.TLSVersion.TLSv1_2
        context.minimum_version = context.maximum_version = version
        if plan.alpn:
            context.set_alpn_protocols(list(plan.alpn))
        if logs:
            context.keylog_filename = logs
        _contexts[key] = context
    return _contexts[key]
