-- What the log forgets, and when.
--
-- The bounds of items and bytes move a topic's floor up, and nothing below it is read again. To
-- move it costs reads, so it is moved when the topic is an eighth over a bound. An event's age is
-- checked when it is read. What is below the floor stays for 5 seconds, for processes that have
-- yet to hear of it. Then `maintain` deletes it, by `due`. Days of the past go as a whole
-- partition, when what is still kept of them was moved to `event_kept`.

create or replace function flowstream.raise_floor(
  t flowstream.topic, p_floor bigint, p_bytes bigint) returns flowstream.topic
language plpgsql volatile as $$
declare r record; v_passed bigint;
begin
  if p_floor > t.floor then
    select coalesce(sum(octet_length(data)), 0) into v_passed from flowstream.event
      where topic = t.id and number >= t.floor and number < p_floor;
    t.size := t.size - v_passed;
    t.floor := p_floor;
  end if;
  if t.size > p_bytes then
    for r in select number, octet_length(data) as size from flowstream.event
        where topic = t.id and number >= t.floor order by number loop
      t.size := t.size - r.size;
      t.floor := r.number + 1;
      exit when t.size <= p_bytes;
    end loop;
  end if;
  t.due := least(t.due, clock_timestamp() + interval '5 seconds');
  update flowstream.topic set floor = t.floor, size = t.size, due = t.due where id = t.id;
  return t;
end $$;

-- Delete what a topic has beside its row. It goes on behind `p_number`, in a new epoch.
create or replace function flowstream.clear(t flowstream.topic, p_number bigint)
returns flowstream.topic
language plpgsql volatile as $$
begin
  delete from flowstream.event where topic = t.id;
  delete from flowstream.token where topic = t.id;
  delete from flowstream.key where topic = t.id;
  delete from flowstream.latest where topic = t.id;
  t.epochs := flowstream.new_epoch_behind(flowstream.last_epoch(t.epochs)) || ':' || p_number + 1;
  t.floor := p_number + 1;
  t.size := 0;
  t.gone := 'infinity';
  t.due := least(t.due, clock_timestamp() + interval '7 days');
  update flowstream.topic set epochs = t.epochs, floor = t.floor, size = 0, gone = t.gone,
      latest_keys = 0, latest_bytes = 0, deleted = true, due = t.due where id = t.id;
  return t;
end $$;

create or replace function flowstream.delete(p_topic text) returns table(o_topic bigint)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare t flowstream.topic;
begin
  perform flowstream.flush_commit();
  t := flowstream.touched_topic(flowstream.current_log(), p_topic);
  delete from flowstream.lease where topic = p_topic;
  if t.id is null or t.deleted and t.gone = 'infinity' then return; end if;
  t := flowstream.clear(t, t.head);
  update flowstream.topic set touched = greatest(touched, clock_timestamp()) where id = t.id;
  perform pg_notify('flowstream', t.id::text);
  o_topic := t.id;
  return next;
end $$;

-- Forget what need not be kept, exactly; returns how many events that were. Nulls stand for what
-- the topic was last appended to with.
create or replace function flowstream.trim(
  p_topic text, p_items bigint, p_seconds float8, p_bytes bigint) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  t flowstream.topic;
  v_now timestamptz;
  v_before bigint;
  v_first bigint;
begin
  perform flowstream.flush_commit();
  t := flowstream.touched_topic(flowstream.current_log(), p_topic);
  v_now := clock_timestamp();
  if t.id is null or t.gone <= v_now then return 0; end if;
  v_before := flowstream.first_kept(t, v_now, t.seconds);
  v_first := flowstream.first_kept(t, v_now, least(coalesce(p_seconds, t.seconds), t.seconds));
  t := flowstream.raise_floor(t, greatest(v_first, t.head - coalesce(p_items, t.items) + 1),
    coalesce(p_bytes, t.bytes));
  return greatest(0, t.floor - v_before);
end $$;

-- Make the partitions of the next seven days, and drop those of which nothing is kept. Locks that
-- others hold are waited for a moment only: it is tried again the next time.
create or replace function flowstream.keep_partitions() returns void
language plpgsql volatile as $$
declare
  v_today date := (clock_timestamp() at time zone 'UTC')::date;
  v_day date;
  v_name text;
  v_count bigint;
begin
  for v_day in select v_today + x from generate_series(0, 7) x loop
    v_name := 'event_' || to_char(v_day, 'YYYYMMDD');
    if to_regclass('flowstream.' || v_name) is null then
      begin
        execute format('create table flowstream.%I (like flowstream.event including defaults)',
          v_name);
        execute format(
          'alter table flowstream.event attach partition flowstream.%I for values from (%L) to (%L)',
          v_name, v_day, v_day + 1);
      exception when lock_not_available or check_violation then
        null;  -- somebody reads, or `event_rest` has events of that day
      end;
    end if;
  end loop;
  for v_name in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'flowstream.event'::regclass and c.relname ~ '^event_[0-9]{8}$'
        and c.relname < 'event_' || to_char(v_today - 1, 'YYYYMMDD')
      order by c.relname loop
    execute format(
      'with old as (
        delete from flowstream.%1$I where ctid = any(array(
          select e.ctid from flowstream.%1$I e join flowstream.topic t on t.id = e.topic
          where e.number >= t.floor limit 5000))
        returning topic, number, at, data)
      insert into flowstream.event_kept(topic, number, day, at, data)
        select topic, number, ''-infinity'', at, data from old', v_name);
    get diagnostics v_count = row_count;
    if v_count = 0 then
      begin
        lock table flowstream.event in access exclusive mode;
        execute format('drop table flowstream.%I', v_name);
      exception when lock_not_available then
        null;
      end;
    end if;
    exit;  -- one at a time: what it takes is short
  end loop;
end $$;

-- Look at topics that are due. Locks that others hold are passed by.
create or replace function flowstream.look(p_limit int) returns int
language plpgsql volatile as $$
declare
  t flowstream.topic;
  v_now timestamptz := clock_timestamp();
  v_looked int := 0;
  v_first bigint;
  v_at timestamptz;
  v_count bigint;
begin
  for t in select * from flowstream.topic where due <= v_now order by due limit p_limit
      for update skip locked loop
    v_looked := v_looked + 1;
    if t.gone <= v_now or t.floor > t.head and t.touched <= v_now - interval '7 days'
        and not exists (select from flowstream.lease where topic = t.name) then
      perform flowstream.forget(t);
      continue;
    end if;
    t.due := 'infinity';
    v_first := flowstream.first_kept(t, v_now, t.seconds);
    if v_first > t.floor or t.size > t.bytes then
      t := flowstream.raise_floor(t, v_first, t.bytes);
      t.due := 'infinity';
    end if;
    delete from flowstream.event where topic = t.id and number in (
      select number from flowstream.event
      where topic = t.id and number < t.floor and at <= v_now - interval '5 seconds'
      order by number limit 5000);
    get diagnostics v_count = row_count;
    if v_count = 5000 then
      t.due := v_now;
    elsif exists (select from flowstream.event where topic = t.id and number < t.floor) then
      t.due := v_now + interval '5 seconds';
    end if;
    if t.floor > t.head then
      -- a lease keeps its topic: it is looked at again
      t.due := least(t.due, greatest(t.touched + interval '7 days', v_now + interval '1 hour'));
    elsif t.seconds < 'Infinity' then
      select at into v_at from flowstream.event where topic = t.id and number >= t.floor
        order by number limit 1;
      t.due := least(t.due, flowstream.after(v_at, t.seconds));
    end if;
    update flowstream.topic set due = least(t.due, gone) where id = t.id;
  end loop;
  return v_looked;
end $$;

-- Forget a topic. Its numbers are free again, so the log's epoch must sort behind those it had.
create or replace function flowstream.forget(t flowstream.topic) returns void
language plpgsql volatile as $$
declare v_last text := flowstream.last_epoch(t.epochs);
begin
  perform flowstream.clear(t, t.head);
  delete from flowstream.topic where id = t.id;
  update flowstream.log set epoch = flowstream.new_epoch_behind(v_last)
    where epoch collate "C" <= v_last;
  perform pg_notify('flowstream', t.id::text);
end $$;

-- Do some of what is due: returns 1 if there may be more at once, else 0. One of all who call it
-- at the same time does it.
create or replace function flowstream.maintain() returns int
language plpgsql volatile security definer
set search_path = pg_catalog, flowstream, pg_temp set lock_timeout = '200ms'
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  v_now timestamptz := clock_timestamp();
  v_looked int;
  v_keys int;
begin
  if not pg_try_advisory_xact_lock(7305808868124291447) then return 0; end if;
  perform flowstream.keep_partitions();
  perform flowstream.current_log();
  perform 1 from flowstream.log for update;  -- before topics, in the order of locks
  with old as (
    delete from flowstream.lease where topic in (
      select topic from flowstream.lease
      where until <= case when ended then v_now else v_now - interval '7 days' end
      order by until limit 1000 for update skip locked)
    returning topic, ended)
  update flowstream.topic set gone = v_now, due = v_now where id in (
    select id from flowstream.topic where name in (select topic from old where not ended)
    for update skip locked);
  v_looked := flowstream.look(64);
  delete from flowstream.key where (topic, key) in (
    select topic, key from flowstream.key where until <= v_now limit 5000 for update skip locked);
  get diagnostics v_keys = row_count;
  return (v_looked = 64 or v_keys = 5000)::int;
exception when lock_not_available then
  return 0;  -- somebody has what it needs: the next call does it
end $$;
