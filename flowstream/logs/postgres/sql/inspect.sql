-- What an operator is shown of a topic, and what is counted of it to be checked. Both read from one
-- snapshot, and all of a topic: some milliseconds for each thousand events.

-- One row, or none if there is no such topic.
create or replace function flowstream.inspect(p_topic text)
returns table(o_epochs text, o_number bigint, o_first bigint, o_kept bigint, o_kept_bytes bigint,
  o_age float8, o_items bigint, o_seconds float8, o_bytes bigint, o_deleted boolean,
  o_floor bigint, o_size bigint, o_stored bigint, o_stored_bytes bigint, o_newest bigint,
  o_holes bigint, o_back bigint, o_ahead bigint, o_differ bigint, o_keys bigint,
  o_keys_bytes bigint, o_keys_stored bigint, o_keys_stored_bytes bigint, o_given boolean)
language plpgsql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off as $$
declare
  t flowstream.topic;
  v_now timestamptz := clock_timestamp();
begin
  select * into t from flowstream.topic where name = p_topic and gone > v_now;
  if not found then return; end if;
  o_epochs := t.epochs; o_number := t.head; o_deleted := t.deleted;
  o_items := t.items; o_seconds := t.seconds; o_bytes := t.bytes;
  o_floor := t.floor; o_size := t.size;
  o_keys := t.latest_keys; o_keys_bytes := t.latest_bytes;
  o_first := flowstream.first_kept(t, v_now, t.seconds);
  select count(*), coalesce(sum(octet_length(data)), 0), extract(epoch from v_now - max(at))
    into o_kept, o_kept_bytes, o_age
    from flowstream.event where topic = t.id and number >= o_first
      and at > flowstream.before(v_now, t.seconds);
  select count(*) filter (where number >= t.floor),
      coalesce(sum(octet_length(data)) filter (where number >= t.floor), 0),
      coalesce(max(number), 0), count(*) filter (where number <> number_before + 1),
      count(*) filter (where at < at_before)
    into o_stored, o_stored_bytes, o_newest, o_holes, o_back
    from (select number, at, data, lag(number) over w as number_before, lag(at) over w as at_before
      from flowstream.event where topic = t.id window w as (order by number)) events;
  select count(*) into o_ahead from (
    select number from flowstream.token where topic = t.id
    union all select number from flowstream.key where topic = t.id
    union all select number from flowstream.latest where topic = t.id) beside
    where number > t.head;
  select count(*) into o_differ
    from flowstream.latest x join flowstream.event e using (topic, number)
    where topic = t.id and x.data <> e.data;
  select count(*), coalesce(sum(octet_length(data)), 0) into o_keys_stored, o_keys_stored_bytes
    from flowstream.latest where topic = t.id;
  o_given := not exists (select from flowstream.lease x, flowstream.log l
    where x.topic = p_topic and x.token > l.fence);
  return next;
end $$;

-- Rows of topics that are not there, by table.
create or replace function flowstream.strays() returns table(o_table text, o_count bigint)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off as $$
  select name, count(*) from (
    select 'event' as name, topic from flowstream.event
    union all select 'token', topic from flowstream.token
    union all select 'key', topic from flowstream.key
    union all select 'latest', topic from flowstream.latest) parts
  where not exists (select from flowstream.topic where id = parts.topic)
  group by name order by name
$$;
