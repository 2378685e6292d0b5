"""Whether a log on Postgres is as its functions leave it, as far as its tables can tell.

Each finding is a sentence about one topic, or about the schema. A finding means that somebody else
has written to the tables, or changed the schema, or that a disk has lost something.

This reads tables, which the log's owner may. It looks at up to 512 topics at one moment, so that no
lock is held for long: workers drop old partitions meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flowstream.logs._epochs import epochs_from_text
from flowstream.logs._topic_summary import PARTS, check_epochs
from flowstream.logs.postgres._operator_session import OperatorSession

# Topics that are looked at in one snapshot.
_BATCH_TOPICS = 512


class StoredTopic(NamedTuple):
    """A topic as it is stored: see ``sql/tables.sql``."""

    id: int
    name: str
    head: int
    floor: int
    size: int
    epochs: str
    life: int
    latest_keys: int
    latest_bytes: int


_TOPICS = """
select t.id, t.name, t.head, t.floor, t.size, t.epochs,
  case when split_part(t.lineage, ':', 1) = split_part(l.lineage, ':', 1)
    then split_part(t.lineage, ':', 3)::int8 else 0 end,
  t.latest_keys, t.latest_bytes
from flowstream.topic t, flowstream.log l where t.id > %s order by t.id limit %s
"""

_EVENTS = """
select topic, count(*) filter (where is_kept), coalesce(sum(bytes) filter (where is_kept), 0)::int8,
  min(number), max(number),
  count(*) filter (where is_kept and number_before >= floor and number > number_before + 1),
  count(*) filter (where number = number_before), count(*) filter (where at < at_before),
  count(*) filter (where day > '-infinity' and day <> (at at time zone 'UTC')::date)
from (
  select e.topic, e.number, e.at, e.day, octet_length(e.data) as bytes, t.floor,
    e.number >= t.floor as is_kept, lag(e.number) over w as number_before,
    lag(e.at) over w as at_before
  from flowstream.event e join flowstream.topic t on t.id = e.topic where t.id = any(%s)
  window w as (partition by e.topic order by e.number)) x
group by topic
"""

_LATEST = """
select x.topic, count(*), sum(octet_length(x.data))::int8, count(*) filter (where exists (
  select from flowstream.event e
  where e.topic = x.topic and e.number = x.number and e.data <> x.data))
from flowstream.latest x where x.topic = any(%s) group by x.topic
"""

_AHEAD = """
select x.topic, count(*) from flowstream.{table} x join flowstream.topic t on t.id = x.topic
where t.id = any(%s) and x.number > t.head group by x.topic
"""

_LOST = """
select count(*) from flowstream.{table} x
where not exists (select from flowstream.topic t where t.id = x.topic)
"""

_LOG = "select life, lineage, fence from flowstream.log"

_LEASES = """
select x.topic, x.token, x.token > %s, t.id is null and x.until
  > case when x.ended then clock_timestamp() else clock_timestamp() - interval '7 days' end
from flowstream.lease x left join flowstream.topic t on t.name = x.topic order by x.topic
"""

_PARTITIONS = """
select coalesce(array_agg(c.relname::text), '{}') from pg_inherits i
join pg_class c on c.oid = i.inhrelid where i.inhparent = 'flowstream.event'::regclass
"""

_TRIGGERS = """
select count(*) from pg_trigger where tgrelid = 'flowstream.committing'::regclass
and tgname = 'flush' and tgenabled in ('O', 'A')
"""

_PUBLIC = """
select x.name from (
  select 'the schema' as name, nspacl as acl from pg_namespace where nspname = 'flowstream'
  union all
  select 'the table ' || relname, relacl from pg_class
    where relnamespace = 'flowstream'::regnamespace and relkind in ('r', 'p', 'S')
  union all
  select 'the function ' || proname, coalesce(proacl, acldefault('f', proowner)) from pg_proc
    where pronamespace = 'flowstream'::regnamespace) x
where exists (select from aclexplode(x.acl) a where a.grantee = 0) order by x.name
"""


def count_topics(session: OperatorSession) -> int:
    """Return how many topics there are."""
    [(count,)] = session.ask("select count(*) from flowstream.topic")
    return int(count)


def verify(session: OperatorSession, step: Callable[[int], None]) -> Iterator[str]:
    """Yield what is wrong, as sentences.

    Args:
        session: of a role that may read the tables.
        step: called with how many topics have been checked.
    """
    with session.snapshot():
        yield from _schema(session)
        logs = session.ask(_LOG)
        if len(logs) != 1:
            yield f"the table flowstream.log must have one row, and has {len(logs)}"
            return
        [(life, lineage, fence)] = logs
        if lineage and lineage.rpartition(":")[2] != str(life):
            yield f"the log is in its life {life}, and its lineage is {lineage}"
        yield from _leases(session, fence)
    for table, what in PARTS.items():
        with session.snapshot():
            [(lost,)] = session.ask(_LOST.format(table=table))
        if lost:
            yield f"{what} is of a topic that is not there ({lost:,} times)"
    done, last = 0, 0
    while True:
        with session.snapshot():
            [(life, _, _)] = session.ask(_LOG)
            topics = [StoredTopic(*row) for row in session.ask(_TOPICS, last, _BATCH_TOPICS)]
            findings = _findings(session, topics, life)
        if not topics:
            return
        for topic in topics:
            for finding in findings[topic.id]:
                yield f"the topic {topic.name!r}: {finding}"
        done, last = done + len(topics), topics[-1].id
        step(done)


def _schema(session: OperatorSession) -> Iterator[str]:
    [(partitions,)] = session.ask(_PARTITIONS)
    for name in ("event_kept", "event_rest"):
        if name not in partitions:
            yield f"the table flowstream.event has no partition {name}"
    [(triggers,)] = session.ask(_TRIGGERS)
    if not triggers:
        yield "the trigger of flowstream.committing is off: what apps put in a transaction is lost"
    [(is_standby,)] = session.ask("select pg_is_in_recovery()")
    if not is_standby:  # it has no unlogged tables
        [(left,)] = session.ask("select count(*) from flowstream.outbox")
        if left:
            yield f"the outbox has events that no commit has appended ({left:,} times)"
    for (name,) in session.ask(_PUBLIC):
        yield f"every role of the database may use {name}"


def _leases(session: OperatorSession, fence: int) -> Iterator[str]:
    for topic, token, is_ahead, is_lost in session.ask(_LEASES, fence):
        if is_ahead:
            yield f"the topic {topic!r}: its lease has the token {token}, which was never given"
        if is_lost:
            yield f"the topic {topic!r}: it has a lease, and is not there"


def _findings(
    session: OperatorSession, topics: list[StoredTopic], life: int
) -> defaultdict[int, list[str]]:
    """Return what is wrong with each of some topics, by their numbers."""
    ids = [topic.id for topic in topics]
    found: defaultdict[int, list[str]] = defaultdict(list)
    no_event: list[Any] = [0, 0, None, None, 0, 0, 0, 0]
    events = {topic: row for topic, *row in session.ask(_EVENTS, ids)}
    latest = {topic: row for topic, *row in session.ask(_LATEST, ids)}
    for topic in topics:
        found[topic.id] += _epochs(topic, life)
        found[topic.id] += _events(topic, *events.get(topic.id, no_event))
        found[topic.id] += _latest(topic, *latest.get(topic.id, (0, 0, 0)))
    for table, what in PARTS.items():
        if table != "event":
            for number, ahead in session.ask(_AHEAD.format(table=table), ids):
                found[number].append(
                    f"{what} is of an event behind its newest one ({ahead:,} times)"
                )
    return found


def _epochs(topic: StoredTopic, life: int) -> Iterator[str]:
    try:
        epochs = epochs_from_text(topic.epochs)
    except ValueError:
        yield f"its epochs can't be read: {topic.epochs!r}"
    else:
        yield from check_epochs(epochs, topic.head)
    if topic.life > life:
        yield f"it is of the life {topic.life} of the log, which is in its life {life}"


def _events(
    topic: StoredTopic,
    kept: int,
    size: int,
    least: int | None,
    most: int | None,
    holes: int,
    twice: int,
    back: int,
    misplaced: int,
) -> Iterator[str]:
    expected = max(0, topic.head - topic.floor + 1)
    if kept != expected:
        yield f"it keeps {kept:,} events from {topic.floor} to {topic.head}, not {expected:,}"
    if most is not None and most > topic.head:
        yield f"it has an event {most}, behind its newest one, which is {topic.head}"
    if least is not None and least < 1:
        yield f"it has an event with the number {least}"
    if holes:
        yield f"between {topic.floor} and {topic.head} numbers are left out ({holes:,} times)"
    if twice:
        yield f"a number stands for two events ({twice:,} times)"
    if back:
        yield f"an event is older than the one before it ({back:,} times)"
    if misplaced:
        yield f"an event is in the partition of another day ({misplaced:,} times)"
    if size != topic.size:
        yield f"its events have {size:,} bytes, not {topic.size:,}"


def _latest(topic: StoredTopic, keys: int, size: int, differ: int) -> Iterator[str]:
    if (keys, size) != (topic.latest_keys, topic.latest_bytes):
        yield (
            f"the newest events of its keys are {keys:,} with {size:,} bytes, not "
            f"{topic.latest_keys:,} with {topic.latest_bytes:,}"
        )
    if differ:
        yield f"the newest event of a key is not the event of its number ({differ:,} times)"


def owner_of_the_log(session: OperatorSession) -> Any:
    """Return the role that owns the schema, which any role may ask."""
    [(owner,)] = session.ask(
        "select pg_catalog.pg_get_userbyid(nspowner) from pg_catalog.pg_namespace"
        " where nspname = 'flowstream'"
    )
    return owner
