"""HTTP/3: Hypercorn's classes and aioquic, with those of our rules and bounds that hold there."""
