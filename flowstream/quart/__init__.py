"""Quart-Trio: after ``Flowstream(app)`` a view returns a stream like any other response."""

from flowstream._lazy import name_publicly
from flowstream.quart._extension import Flowstream, FlowstreamStatistics

__all__ = ["Flowstream", "FlowstreamStatistics"]

name_publicly(__name__, globals(), __all__)
