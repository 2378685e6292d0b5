"""The logs of requests and of the process. Writing them never waits for a reader."""
