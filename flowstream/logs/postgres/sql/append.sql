-- Append entries to one topic, whatever is to be looked at: keys, a fence, a new epoch.
--
-- The topic's row is updated first, as if all entries were new. That takes its lock, and later
-- statements see what the one before has committed. What turns out to be there already is taken
-- back. Topics are taken in the order of their names, so that transactions that cross wait for
-- each other in one direction.
--
-- `append` in batch.sql is what clients call.

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

-- Whether `keep_bounds` has something to do, after so many entries more.
create or replace function flowstream.is_due(t flowstream.topic, n int) returns boolean
language sql stable as $$
  select t.head - t.floor + 1 - t.items > greatest(t.items >> 3, 64)
    or t.size - t.bytes > t.bytes >> 3
    or t.head >> 6 <> (t.head - n) >> 6
    or t.due > least(flowstream.after(t.touched, t.seconds),
      case when t.head - t.floor >= t.items then t.touched + interval '60 seconds' end)
$$;

-- Move the floor of a topic if it is an eighth over a bound, and forget all but so many tokens. Have
-- it looked at when its oldest event is over its time, and soon if it is over a bound.
create or replace function flowstream.keep_bounds(p_topic bigint, n int) returns void
language plpgsql volatile as $$
declare t flowstream.topic; v_due timestamptz;
begin
  select * into strict t from flowstream.topic where id = p_topic;
  v_due := least(t.due, flowstream.after(t.touched, t.seconds),
    case when t.head - t.floor >= t.items then t.touched + interval '60 seconds' end);
  if v_due < t.due then update flowstream.topic set due = v_due where id = t.id; end if;
  t.due := v_due;
  if t.head - t.floor + 1 - t.items > greatest(t.items >> 3, 64)
      or t.size - t.bytes > t.bytes >> 3 then
    perform flowstream.raise_floor(t, t.head - t.items + 1, t.bytes);
  end if;
  if t.head >> 6 <> (t.head - n) >> 6 then
    delete from flowstream.token where topic = t.id and number <= t.head - 1024;
  end if;
end $$;

-- Count a topic's row down again, behind `p_number`: its lock is held since it was counted up.
create or replace function flowstream.take_back(p_topic bigint, p_number bigint, p_data bytea[])
returns void
language plpgsql volatile as $$
begin
  update flowstream.topic set head = p_number,
      size = size - (select sum(octet_length(d)) from unnest(p_data) d)
    where id = p_topic;
  delete from flowstream.token where topic = p_topic and number > p_number;
end $$;

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
    -- no constraint of the table: that would be read again with each update of the counter
    if length(p_topic) not between 1 and 1024 then
      raise exception 'the name of a topic has 1 to 1024 characters' using errcode = 'check_violation';
    end if;
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
