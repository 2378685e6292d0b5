"""The server: a runner made of Hypercorn's parts, which keeps flowstream's promises to streams."""

from flowstream.server._serving import serve
from flowstream.server._settings import ServerConfig, streaming_config

__all__ = ["ServerConfig", "serve", "streaming_config"]

serve.__module__ = "flowstream"  # where it is public, and loaded from when it is asked for
