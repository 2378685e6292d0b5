-- What topics have, for an operator: those of the names that are there, by name. It reads sizes of
-- events and not the events, from one snapshot, and writes nothing; so it may be called on a standby.

create or replace function flowstream.inspect(p_names text[])
returns table(o_name text, o_epochs text, o_head bigint, o_first bigint, o_kept bigint,
  o_size bigint, o_age float8, o_items bigint, o_seconds float8, o_bytes bigint, o_deleted boolean)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  select t.name, t.epochs, t.head, x.first, e.kept, e.size,
    greatest(0, extract(epoch from clock_timestamp() - e.newest))::float8,
    t.items, t.seconds, t.bytes, t.deleted
  from flowstream.topic t
  cross join lateral flowstream.first_kept(t, clock_timestamp(), t.seconds) as x(first)
  cross join lateral (
    select count(*) as kept, coalesce(sum(octet_length(data)), 0)::bigint as size,
      max(at) as newest
    from flowstream.event where topic = t.id and number >= x.first
      and at > flowstream.before(clock_timestamp(), t.seconds)) e
  where t.name = any(p_names) and t.gone > clock_timestamp()
  order by t.name
$$;
