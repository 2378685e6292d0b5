"""Serving: a Trio program's way to run an ASGI app on Hypercorn."""

from flowstream.server._serving import serve, streaming_config

__all__ = ["serve", "streaming_config"]
