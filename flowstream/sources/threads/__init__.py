"""Worker threads, in which blocking work is done. Each kind of work has its own pool."""
