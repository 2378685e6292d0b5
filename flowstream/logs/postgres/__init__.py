"""The log on Postgres: its SQL, and the client that calls it."""

from flowstream._errors import missing_extra

try:
    import psycopg  # noqa: F401
except ImportError:
    raise missing_extra("a log on Postgres", "postgres") from None
