"""The log on Postgres: its SQL, and the client that calls it."""
