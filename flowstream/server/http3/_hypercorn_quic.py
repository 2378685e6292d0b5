"""The pieces of Hypercorn that need aioquic. `_hypercorn` has all others."""

from hypercorn.protocol.h3 import H3Protocol
from hypercorn.protocol.quic import QuicProtocol

__all__ = ["H3Protocol", "QuicProtocol"]
