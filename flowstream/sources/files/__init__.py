"""Files as sources: a file's bytes, and the lines that others append to a file."""
