"""HTTP/1.1: plain requests by ourselves, all others by h11."""
