"""HTTP/2: Hypercorn's, with backpressure and with bounds."""
