"""Worker threads: what blocks is done there, each kind of work in a pool of its own."""
