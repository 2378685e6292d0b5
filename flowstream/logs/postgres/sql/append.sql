-- Append: many topics in one transaction, each with its entries.
--
-- The topic's row is updated first, as if all entries were new. That takes its lock, and later
-- statements see what the one before has committed. What turns out to be there already is taken
-- back. Topics are taken in the order of their names, so that transactions that cross wait for
-- each other in one direction.
--
-- Functions that a client calls say how their statements are planned: once a session, and by
-- indexes. To plan one for all partitions takes longer than to run it, and the statistics of a
-- table that was empty a moment ago would have it read from end to end.

-- These two are stable, as their operators are: then they cost no call.
create or replace function flowstream.after(p_at timestamptz, p_seconds float8) returns timestamptz
language sql stable as $$
  select case when p_seconds < 3e9 then p_at + p_seconds * interval '1 second'
    else 'infinity' end
$$;

create or replace function flowstream.before(p_at timestamptz, p_seconds float8)
returns timestamptz
language sql stable as $$
  select case when p_seconds < 3e9 then p_at - p_seconds * interval '1 second'
    else '-infinity' end
$$;

create or replace function flowstream.append_one(
  l flowstream.log, p_topic text, p_data bytea[], p_keys text[],
  p_idempotency text[], p_idempotency_seconds float8[],
  p_token text, p_fence bigint, p_items bigint, p_seconds float8, p_bytes bigint,
  out o_topic bigint, out o_epochs text, out o_first bigint, out o_added int, out o_results text,
  out o_fenced boolean)
language plpgsql volatile as $$
declare
  n int := cardinality(p_data);
  t flowstream.topic;
  v_size bigint;
  v_epoch text;
  v_asks boolean := cardinality(array_remove(p_idempotency, null)) > 0;
  v_keyed boolean := cardinality(array_remove(p_keys, null)) > 0;
  v_known text;
  v_new int[];
  k flowstream.key;
  v_number bigint;
  v_run text;
  v_next bigint;
  v_count int := 0;
  v_keys bigint;
  v_bytes bigint;
begin
  o_added := 0;
  o_results := '';
  o_fenced := p_fence is not null and not flowstream.holds(p_topic, p_fence);
  if o_fenced or n = 0 then return; end if;
  select sum(octet_length(d)) into v_size from unnest(p_data) d;
  loop
    update flowstream.topic x set
      head = x.head + n,
      size = x.size + v_size,
      touched = greatest(clock_timestamp(), x.touched),
      deleted = false,
      items = coalesce(p_items, x.items),
      seconds = coalesce(p_seconds, x.seconds),
      bytes = coalesce(p_bytes, x.bytes),
      due = least(x.due,
        case when coalesce(p_items, x.items) <> x.items
            or coalesce(p_seconds, x.seconds) <> x.seconds
            or coalesce(p_bytes, x.bytes) <> x.bytes
          then clock_timestamp() end,
        flowstream.after(clock_timestamp(), coalesce(p_seconds, x.seconds)),
        case when x.head + n - x.floor >= coalesce(p_items, x.items)
          then clock_timestamp() + interval '60 seconds' end)
      where x.name = p_topic returning x.* into t;
    exit when found;
    insert into flowstream.topic(name, epochs, lineage) values (p_topic, l.epoch || ':1', l.lineage)
      on conflict (name) do nothing;
  end loop;
  if t.lineage <> l.lineage then
    l := flowstream.current_log();  -- it may have a later life since it was read
    if t.lineage <> l.lineage then
      t.epochs := flowstream.begin_epoch(t.epochs, t.head - n);
      t.lineage := l.lineage;
      update flowstream.topic set epochs = t.epochs, lineage = t.lineage where id = t.id;
    end if;
  end if;
  if t.gone <= t.touched then
    t := flowstream.clear(t, t.head - n);
    t.size := v_size;
    update flowstream.topic set size = t.size, deleted = false where id = t.id;
  end if;
  o_topic := t.id;
  o_epochs := t.epochs;
  v_epoch := flowstream.last_epoch(t.epochs);
  v_number := t.head - n;
  o_first := v_number + 1;
  if p_fence is not null then o_fenced := not flowstream.holds(p_topic, p_fence); end if;
  if not o_fenced and p_token is not null then
    if v_asks then
      select result into v_known from flowstream.token where topic = t.id and token = p_token;
    else
      o_results := v_epoch || ':' || o_first || ':0:' || n;
      insert into flowstream.token values (t.id, p_token, t.head, o_results) on conflict do nothing;
      if not found then
        select result into v_known from flowstream.token where topic = t.id and token = p_token;
      end if;
    end if;
  end if;
  if o_fenced or v_known is not null then
    update flowstream.topic set head = v_number, size = t.size - v_size where id = t.id;
    o_results := coalesce(v_known, '');
    return;
  end if;
  if not v_asks then
    o_results := v_epoch || ':' || o_first || ':0:' || n;
    o_added := n;
    insert into flowstream.event(topic, number, day, at, data)
      select t.id, v_number + place, (t.touched at time zone 'UTC')::date, t.touched, d
      from unnest(p_data) with ordinality as x(d, place);
  else
    o_results := '';
    for i in 1 .. n loop
      k := null;
      if p_idempotency[i] is not null then
        select * into k from flowstream.key
          where topic = t.id and key = p_idempotency[i] and until > t.touched;
      end if;
      if k.number is null then
        k.epoch := v_epoch;
        k.number := v_number + 1 + o_added;
        o_added := o_added + 1;
        v_new := v_new || i;
        if p_idempotency[i] is not null then
          insert into flowstream.key values (t.id, p_idempotency[i], k.epoch, k.number,
              flowstream.after(t.touched, p_idempotency_seconds[i]))
            on conflict (topic, key) do update
              set epoch = excluded.epoch, number = excluded.number, until = excluded.until;
        end if;
        k.topic := 0;
      else
        k.topic := 1;
      end if;
      -- neighbours are one run
      if v_count > 0 and v_run = k.epoch || k.topic and k.number = v_next then
        v_count := v_count + 1;
      else
        if v_count > 0 then o_results := o_results || v_count || ' '; end if;
        o_results := o_results || k.epoch || ':' || k.number || ':' || k.topic || ':';
        v_run := k.epoch || k.topic;
        v_count := 1;
      end if;
      v_next := k.number + 1;
    end loop;
    o_results := o_results || v_count;
    if p_token is not null then
      insert into flowstream.token values (t.id, p_token, v_number + o_added, o_results)
        on conflict do nothing;
    end if;
    insert into flowstream.event(topic, number, day, at, data)
      select t.id, v_number + row_number() over (order by place),
        (t.touched at time zone 'UTC')::date, t.touched, d
      from unnest(p_data) with ordinality as x(d, place) where place = any(v_new);
    if o_added < n then
      select t.size - coalesce(sum(octet_length(d)), 0) into t.size
        from unnest(p_data) with ordinality as x(d, place)
        where place <> all(coalesce(v_new, '{}'));
      t.head := v_number + o_added;
      update flowstream.topic set head = t.head, size = t.size where id = t.id;
    end if;
  end if;
  if v_keyed and o_added > 0 then
    with put as (
      select distinct on (key) key, number, d from (
        select key, v_number + row_number() over (order by place) as number, d
        from unnest(p_keys, p_data) with ordinality as x(key, d, place)
        where v_new is null or place = any(v_new)) added
      where key is not null order by key, number desc
    ), old as (
      select count(*) as n, coalesce(sum(octet_length(data)), 0) as size
      from flowstream.latest where topic = t.id and key in (select key from put)
    ), done as (
      insert into flowstream.latest select t.id, key, v_epoch, number, t.touched, d from put
        on conflict (topic, key) do update set epoch = excluded.epoch, number = excluded.number,
          at = excluded.at, data = excluded.data
    )
    select t.latest_keys + (select count(*) from put) - old.n,
        t.latest_bytes + (select coalesce(sum(octet_length(d)), 0) from put) - old.size
      into v_keys, v_bytes from old;
    perform flowstream.keep_latest(t.id, v_keys, v_bytes);
  end if;
  if t.head - t.floor + 1 - t.items > greatest(t.items >> 3, 64)
      or t.size - t.bytes > t.bytes >> 3 then
    perform flowstream.raise_floor(t, t.head - t.items + 1, t.bytes);
  end if;
  if t.head / 64 <> v_number / 64 then
    delete from flowstream.token where topic = t.id and number <= t.head - 1024;
  end if;
end $$;

-- Keep 10,000 keys and 8 MiB of the newest events by key; the key written longest ago goes first.
create or replace function flowstream.keep_latest(p_topic bigint, p_keys bigint, p_bytes bigint)
returns void
language plpgsql volatile as $$
declare r record; v_last bigint;
begin
  if p_keys > 10000 or p_bytes > 8388608 then
    for r in select number, octet_length(data) as size from flowstream.latest
        where topic = p_topic order by number loop
      exit when p_keys <= 10000 and p_bytes <= 8388608;
      p_keys := p_keys - 1;
      p_bytes := p_bytes - r.size;
      v_last := r.number;
    end loop;
    delete from flowstream.latest where topic = p_topic and number <= v_last;
  end if;
  update flowstream.topic set latest_keys = p_keys, latest_bytes = p_bytes where id = p_topic;
end $$;

-- One row a job, in the order of the jobs. The entries of all jobs stand behind each other.
create or replace function flowstream.append(
  p_lineage text, p_wal bigint, p_topics text[], p_counts int[], p_tokens text[],
  p_items bigint[], p_seconds float8[], p_bytes bigint[], p_fences bigint[],
  p_data bytea[], p_keys text[], p_idempotency text[], p_idempotency_seconds float8[])
returns table(o_topic bigint, o_epochs text, o_first bigint, o_added int, o_results text,
  o_fenced boolean, o_wal bigint)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  l flowstream.log := flowstream.seen_log(p_lineage, p_wal);
  a record;
  v_at int := 1;
  v_to int;
  v_before text;
  v_any boolean := cardinality(array_remove(p_keys, null)) > 0
    or cardinality(array_remove(p_idempotency, null)) > 0;
begin
  perform flowstream.flush_commit();
  for i in 1 .. cardinality(p_topics) loop
    if p_topics[i] collate "C" < v_before then
      raise exception 'topics must be sorted by the bytes of their names'
        using errcode = 'invalid_parameter_value';
    end if;
    v_before := p_topics[i];
    v_to := v_at + p_counts[i] - 1;
    -- a slice walks through all that is before it; one element does not
    a := flowstream.append_one(l, p_topics[i],
      case when v_at = v_to then array[p_data[v_at]] else p_data[v_at : v_to] end,
      case when v_any then p_keys[v_at : v_to] end,
      case when v_any then p_idempotency[v_at : v_to] end,
      case when v_any then p_idempotency_seconds[v_at : v_to] end,
      p_tokens[i], p_fences[i], p_items[i], p_seconds[i], p_bytes[i]);
    v_at := v_to + 1;
    o_topic := a.o_topic; o_epochs := a.o_epochs; o_first := a.o_first; o_added := a.o_added;
    o_results := a.o_results; o_fenced := a.o_fenced;
    o_wal := case when a.o_added > 0 then (pg_current_wal_insert_lsn() - '0/0')::bigint
      else flowstream.flushed() end;
    return next;
  end loop;
end $$;
