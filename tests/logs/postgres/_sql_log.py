"""The log's SQL, called as the client calls it, with one connection that blocks."""

from __future__ import annotations

import math
from itertools import count

import psycopg

from flowstream.logs.postgres._schema import schema_sql

_APPEND = """select * from flowstream.append(%s::text, %s::int8, %s::text[], %s::int4[],
    %s::text[], %s::int8[], %s::float8[], %s::int8[], %s::int8[], %s::bytea[], %s::text[],
    %s::text[], %s::float8[])"""
EMPTY = """
truncate flowstream.topic, flowstream.event, flowstream.token, flowstream.key, flowstream.latest,
    flowstream.lease, flowstream.relay, flowstream.outbox, flowstream.committing restart identity;
delete from flowstream.log;
insert into flowstream.log(epoch) values ('');
select flowstream.current_log(), flowstream.keep_partitions();
"""
"""Removes all that is in the log."""

_tokens = count(1)


def make_schema(dsn, *roles):
    """Make the schema, as its owner."""
    with psycopg.connect(dsn) as connection:
        connection.execute(schema_sql(roles))


class SQLLog:
    """The functions of the schema as methods.

    Attributes:
        connection: in autocommit mode.
    """

    def __init__(self, dsn):
        self.connection = psycopg.connect(dsn, autocommit=True)

    def close(self):
        self.connection.close()

    def ask(self, query, *values):
        return self.connection.execute(query, values or None).fetchall()

    def one(self, query, *values):
        ((value,),) = self.ask(query, *values)
        return value

    def append(self, topic, *data, **options):
        """Append events to one topic; return its row: topic, epochs, first, added, results …"""
        (row,) = self.append_many([(topic, data, options)])
        return row

    def append_many(self, jobs, lineage="", wal=0):
        """Append to topics: `(topic, data, {token, fence, items, seconds, bytes, keys, asked})`."""
        flat = [(one, options) for _, data, options in jobs for one in data]

        def of_entry(name):
            found = []
            places = {id(options): count() for _, _, options in jobs}
            for _, options in flat:
                at = next(places[id(options)])
                values = options.get(name)
                found.append(values[at] if values else None)
            return found

        return self.ask(
            _APPEND,
            lineage,
            wal,
            [topic for topic, _, _ in jobs],
            [len(data) for _, data, _ in jobs],
            [options.get("token", f"token {next(_tokens)}") for _, _, options in jobs],
            [options.get("items", 1000) for _, _, options in jobs],
            [options.get("seconds", math.inf) for _, _, options in jobs],
            [options.get("bytes", 8 << 20) for _, _, options in jobs],
            [options.get("fence") for _, _, options in jobs],
            [data for data, _ in flat],
            of_entry("keys"),
            of_entry("asked"),
            [options.get("asked_seconds", 300.0) for _, options in flat],
        )

    def read(self, topic, epoch="", number=0, limit=512, size=1 << 20):
        """Return the row of the topic, and the numbers and data of its records."""
        head, *records = self.ask(
            "select * from flowstream.read(%s, %s, %s, %s, %s)", topic, epoch, number, limit, size
        )
        return head, [(record[6], record[8]) for record in records]

    def events(self, topic):
        """Return the numbers and data of all events of a topic that can be read."""
        head, _ = self.read(topic)
        epoch, _, first = head[1].split(",")[0].partition(":")
        return self.read(topic, epoch, int(first) - 1, limit=100_000)[1]

    def epoch(self, topic):
        return self.read(topic)[0][1].split(",")[-1].split(":")[0]
