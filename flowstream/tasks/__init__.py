"""Tasks: start, wake, time and retry them, and explain how they failed."""
