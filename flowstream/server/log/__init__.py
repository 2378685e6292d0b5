"""The log: of each request, and of the process, written without a wait for whoever reads it."""
