"""Rows of a database as a source: read in worker threads, in batches, sent row by row."""
