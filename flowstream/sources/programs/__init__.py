"""Programs as sources: their output, as they write it."""
