"""HTTP/1.1: plain requests without a parser, all others with h11."""
