"""WebSockets: Hypercorn's, with checked handshakes and bounded messages."""
