"""flowstream: backpressure-aware streaming over HTTP, on Trio."""

__version__ = "0.1.0"
