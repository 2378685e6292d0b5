"""Instruments: who is told when streams start and end.

A metrics library or a tracer derives from `Instrument`. One that fails is heard no more, and no
stream is harmed by it.
"""

from __future__ import annotations

from flowstream._closing import StreamReport
from flowstream._live_stream import LiveStream


class Instrument:
    """Is told when streams of a Trio run start and end: `flowstream.add_instrument`.

    Derive from it and write the methods you want; those here do nothing. The event loop calls them
    with the context variables of the view, so they must not block. If one raises, the error is
    logged, the instrument is told nothing more, and the stream goes on unharmed.
    """

    def stream_started(self, stream: LiveStream) -> None:
        """Called when a stream was made for a request, before its first byte goes out.

        A stream that is refused at once, for instance for a HEAD, starts and ends, too.
        """

    def stream_ended(self, stream: LiveStream, report: StreamReport) -> None:
        """Called once when a stream has ended, after its line in the log.

        Args:
            stream: the view that `stream_started` was given.
            report: what the stream did, and why it ended.
        """
