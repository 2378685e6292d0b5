-- What is read. Each function reads from one snapshot, since it is stable; and changes nothing.

create or replace function flowstream.first_kept(t flowstream.topic, p_now timestamptz,
  p_seconds float8) returns bigint
language plpgsql stable as $$
declare
  v_first bigint := greatest(t.floor, t.head - t.items + 1, flowstream.first_of_epochs(t.epochs));
begin
  if p_seconds < 'Infinity' then
    select number into v_first from flowstream.event
      where topic = t.id and number >= v_first and at > flowstream.before(p_now, p_seconds)
      order by number limit 1;
  end if;
  return least(coalesce(v_first, t.head + 1), t.head + 1);
end $$;

-- First a row with the topic, whose number is null; then the records. A topic that is not there has
-- null for its id. There are no records if the topic does not know the position.
create or replace function flowstream.read(
  p_topic text, p_epoch text, p_number bigint, p_limit int, p_bytes bigint)
returns table(o_topic bigint, o_epochs text, o_head bigint, o_first bigint, o_current boolean,
  o_wal bigint, o_number bigint, o_age float8, o_data bytea)
language plpgsql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  l flowstream.log;
  t flowstream.topic;
  v_now timestamptz := clock_timestamp();
  v_lineage text;
  v_after bigint;
begin
  select * into strict l from flowstream.log;
  v_lineage := flowstream.lineage(l);
  o_wal := flowstream.flushed();
  select * into t from flowstream.topic where name = p_topic and gone > v_now;
  if not found then
    o_epochs := l.epoch || ':1'; o_head := 0; o_first := 1; o_current := l.lineage = v_lineage;
    return next;
    return;
  end if;
  o_topic := t.id; o_epochs := t.epochs; o_head := t.head; o_current := t.lineage = v_lineage;
  o_first := flowstream.first_kept(t, v_now, t.seconds);
  return next;
  v_after := flowstream.locate(t.epochs, t.head, p_epoch, p_number);
  if v_after is null then return; end if;
  return query
    select null::bigint, null::text, null::bigint, null::bigint, null::boolean, null::bigint,
      page.number, greatest(0, extract(epoch from v_now - page.at))::float8, page.data
    from (
      select e.number, e.at, e.data, row_number() over (order by e.number) as place,
        sum(octet_length(e.data)) over (order by e.number) as total
      from (
        select number, at, data from flowstream.event
        where topic = t.id and number >= greatest(v_after + 1, o_first)
          and at > flowstream.before(v_now, t.seconds)
        order by number limit p_limit) e
    ) page
    where page.place = 1 or page.total <= p_bytes order by page.number;
end $$;

-- News of many topics, by id: for each a row with the topic, then what was appended behind a
-- number, below the floor, too, for 5 seconds: a topic that keeps nothing delivers all the same.
-- A topic that is gone has null for its epochs. What does not fit is left to the next call.
create or replace function flowstream.follow(
  p_topics bigint[], p_after bigint[], p_limit int, p_bytes bigint)
returns table(o_topic bigint, o_epochs text, o_head bigint, o_number bigint, o_age float8,
  o_data bytea)
language plpgsql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  t flowstream.topic;
  r record;
  v_now timestamptz := clock_timestamp();
  v_any boolean := false;
begin
  for i in 1 .. cardinality(p_topics) loop
    t := null;
    select * into t from flowstream.topic where id = p_topics[i] and gone > v_now;
    o_topic := p_topics[i]; o_epochs := t.epochs; o_head := t.head;
    o_number := null; o_age := null; o_data := null;
    return next;
    if t.head > p_after[i] and p_limit > 0 then
      for r in select e.number, e.at, e.data, octet_length(e.data) as size from flowstream.event e
          where e.topic = t.id and e.number > p_after[i]
            and e.number >= flowstream.first_of_epochs(t.epochs)
            and e.at > flowstream.before(v_now, t.seconds)
            and (e.number >= greatest(t.floor, t.head - t.items + 1)
              or e.at > v_now - interval '5 seconds')
          order by e.number limit p_limit loop
        p_bytes := p_bytes - r.size;
        p_limit := p_limit - 1;
        if v_any and p_bytes < 0 then
          p_limit := 0;
          exit;
        end if;
        v_any := true;
        o_epochs := null; o_head := null;
        o_number := r.number; o_data := r.data;
        o_age := greatest(0, extract(epoch from v_now - r.at));
        return next;
      end loop;
    end if;
  end loop;
end $$;

create or replace function flowstream.ids(p_names text[])
returns table(o_topic bigint, o_name text, o_epochs text, o_head bigint)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  select id, name, epochs, head from flowstream.topic
  where name = any(p_names) and gone > clock_timestamp()
$$;

create or replace function flowstream.names(p_topics bigint[])
returns table(o_topic bigint, o_name text, o_epochs text, o_head bigint)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  select id, name, epochs, head from flowstream.topic
  where id = any(p_topics) and gone > clock_timestamp()
$$;

-- The heads of topics that are there, and a row with a null name for all others. `o_current` says
-- whether the topic is of the server's lineage; if not, touch it and ask again.
create or replace function flowstream.heads(p_names text[])
returns table(o_name text, o_epochs text, o_head bigint, o_first bigint, o_current boolean)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  with l as materialized (select epoch, flowstream.lineage(x) as lineage from flowstream.log x)
  select null, l.epoch || ':1', 0, 1, true from l
  union all
  select t.name, t.epochs, t.head, flowstream.first_kept(t, clock_timestamp(), t.seconds),
    t.lineage = l.lineage
  from flowstream.topic t, l where t.name = any(p_names) and t.gone > clock_timestamp()
$$;

-- A page of the newest events by key: first a row with the topic, whose key is null. `o_more` of
-- the last row says whether there are keys behind it. `o_current` of the first: see `heads`.
create or replace function flowstream.latest(p_topic text, p_after text, p_bytes bigint)
returns table(o_topic bigint, o_epochs text, o_head bigint, o_first bigint, o_key text,
  o_epoch text, o_number bigint, o_age float8, o_data bytea, o_more boolean, o_current boolean)
language plpgsql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  t flowstream.topic;
  v_now timestamptz := clock_timestamp();
begin
  select * into t from flowstream.topic where name = p_topic and gone > v_now;
  if not found then
    o_epochs := (select epoch || ':1' from flowstream.log);
    o_head := 0; o_first := 1; o_more := false; o_current := true;
    return next;
    return;
  end if;
  o_topic := t.id; o_epochs := t.epochs; o_head := t.head; o_more := false;
  o_current := t.lineage = (select flowstream.lineage(x) from flowstream.log x);
  o_first := flowstream.first_kept(t, v_now, t.seconds);
  return next;
  return query
    select null::bigint, null::text, null::bigint, null::bigint, page.key, page.epoch, page.number,
      greatest(0, extract(epoch from v_now - page.at))::float8, page.data, page.place < page.rest,
      null::boolean
    from (
      select x.key, x.epoch, x.number, x.at, x.data, row_number() over (order by x.key) as place,
        count(*) over () as rest, sum(octet_length(x.data)) over (order by x.key) as total
      from flowstream.latest x where x.topic = t.id and x.key > p_after
    ) page
    where page.place = 1 or page.total <= p_bytes order by page.key;
end $$;

-- Names that begin with a prefix, behind a name. They stand together, so the limit comes first.
create or replace function flowstream.topics(p_prefix text, p_after text, p_limit int)
returns table(o_name text)
language sql stable security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  select name from (
    select name from flowstream.topic
    where name > p_after and name >= p_prefix and not deleted and gone > clock_timestamp()
    order by name limit p_limit) page
  where starts_with(name, p_prefix) order by name
$$;
