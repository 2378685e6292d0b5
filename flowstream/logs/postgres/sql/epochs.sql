-- Epochs: stretches of a topic in which nothing that was acknowledged can have been lost.
--
-- The server says in each transaction which *lineage* it is of: its cluster, its timeline, and the
-- life that is counted in `log`. A topic whose lineage is another one begins a new epoch at its
-- first touch. Clients never say which life it is: two with different views would begin an epoch
-- each at every publish.
--
-- A new life begins on evidence: somebody had more from this log than it has. That is compared and
-- set, so that many who find the same out begin one. What a process has of the log is the lineage
-- that it knows, and how far the WAL was in it. So who appends must know the lineage that is.
--
-- Locks are taken in this order: the row of `log`, topics by name, leases.

create or replace function flowstream.base32(p_number bigint, p_digits int) returns text
language sql immutable as $$
  select string_agg(substr('0123456789abcdefghijklmnopqrstuv',
    ((p_number >> (5 * place)) & 31)::int + 1, 1), '' order by place desc)
  from generate_series(0, p_digits - 1) place
$$;

create or replace function flowstream.unbase32(p_text text) returns bigint
language sql immutable as $$
  select sum((position(substr(p_text, place, 1) in '0123456789abcdefghijklmnopqrstuv') - 1)::bigint
    << (5 * (length(p_text) - place)))::bigint
  from generate_series(1, length(p_text)) place
$$;

-- A new epoch, which sorts behind `p_last`: 7 characters of seconds, 4 of chance. If that one is of
-- this second or of a clock that was ahead, the new one is ahead of it by half a second at the most,
-- by chance: a server and a copy of it must not come to the same one.
create or replace function flowstream.new_epoch_behind(p_last text) returns text
language plpgsql volatile as $$
declare v_epoch text; v_next bigint;
begin
  v_epoch := flowstream.base32(floor(extract(epoch from clock_timestamp()))::bigint, 7)
    || flowstream.base32(floor(random() * 1048576)::bigint, 4);
  if v_epoch collate "C" > p_last then return v_epoch; end if;
  v_next := flowstream.unbase32(left(p_last, 11)) + 1;
  if v_next + 524288 < 1::bigint << 55 then
    return flowstream.base32(v_next + floor(random() * 524288)::bigint, 11);
  end if;
  if length(p_last) < 16 then return p_last || '0'; end if;  -- in the year 3058
  return flowstream.base32(v_next, 11);
end $$;

create or replace function flowstream.last_epoch(p_epochs text) returns text
language sql immutable as $$ select substring(p_epochs from '([^,:]+):[^,]*$') $$;

create or replace function flowstream.first_of_epochs(p_epochs text) returns bigint
language sql immutable as $$ select split_part(split_part(p_epochs, ',', 1), ':', 2)::bigint $$;

-- The epochs with a new one, which begins behind `p_number`, and sorts behind all of them and
-- `p_epoch`; the last 8 are kept.
create or replace function flowstream.begin_epoch(
  p_epochs text, p_number bigint, p_epoch text default '') returns text
language plpgsql volatile as $$
declare
  v_all text[] := string_to_array(p_epochs, ',');
  v_last text := greatest(flowstream.last_epoch(p_epochs) collate "C", p_epoch collate "C");
begin
  v_all := v_all || (flowstream.new_epoch_behind(v_last) || ':' || p_number + 1);
  return array_to_string(v_all[greatest(1, cardinality(v_all) - 7):], ',');
end $$;

-- The number to read behind, or null if the topic knows no such position.
create or replace function flowstream.locate(
  p_epochs text, p_head bigint, p_epoch text, p_number bigint) returns bigint
language plpgsql immutable as $$
declare
  v_all text[] := string_to_array(p_epochs, ',');
  v_last bigint;
begin
  for i in 1 .. cardinality(v_all) loop
    if split_part(v_all[i], ':', 1) = p_epoch then
      if i < cardinality(v_all) then v_last := split_part(v_all[i + 1], ':', 2)::bigint - 1; end if;
      if p_number < split_part(v_all[i], ':', 2)::bigint - 1
        or (v_last is null and p_number > p_head) then
        return null;
      end if;
      return least(p_number, v_last);
    end if;
  end loop;
  return null;
end $$;

-- Whether a reader that surely had this position shows that events were lost.
create or replace function flowstream.is_evidence(
  p_epochs text, p_head bigint, p_epoch text, p_number bigint) returns boolean
language sql immutable as $$
  select p_epoch collate "C" > flowstream.last_epoch(p_epochs)
    or (p_epoch = flowstream.last_epoch(p_epochs) and p_number > p_head)
$$;

-- What the server says of itself: its cluster, its timeline, the log's life. The cluster is read
-- from a file, once a session, since a session never gets to another one. The timeline may change
-- while a session is open.
create or replace function flowstream.lineage(l flowstream.log) returns text
language plpgsql stable as $$
declare v_cluster text := current_setting('flowstream.cluster', true);
begin
  if v_cluster is null or v_cluster = '' then
    v_cluster := (select system_identifier from pg_catalog.pg_control_system());
    perform set_config('flowstream.cluster', v_cluster, false);
  end if;
  return v_cluster || ':' || case when l.failover_loses
      then substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) else '*' end
    || ':' || l.life;
end $$;

create or replace function flowstream.flushed() returns bigint
language sql volatile as $$ select (pg_catalog.pg_current_wal_flush_lsn() - '0/0')::bigint $$;

-- Have the log begin a life: the next one if its life is `p_life`, and in any case if the server
-- is of another lineage. Its number is above `p_seen`, and its epochs sort behind `p_epoch`: those
-- that somebody has seen may be forgotten here. Returns the log as it is now.
create or replace function flowstream.begin_life(
  p_life bigint, p_seen bigint default 0, p_epoch text default '') returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log; v_lineage text;
begin
  select * into strict l from flowstream.log for update;
  if l.life = p_life then l.life := greatest(l.life, p_seen) + 1; end if;
  v_lineage := flowstream.lineage(l);
  if l.lineage <> v_lineage then
    l.lineage := v_lineage;
    l.epoch := flowstream.new_epoch_behind(greatest(l.epoch collate "C", p_epoch collate "C"));
    update flowstream.log set life = l.life, lineage = l.lineage, epoch = l.epoch;
    perform pg_notify('flowstream', '0');
  end if;
  return l;
end $$;

-- The log, in the lineage that the server is of.
create or replace function flowstream.current_log() returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log;
begin
  select * into strict l from flowstream.log;
  if l.lineage = flowstream.lineage(l) then return l; end if;
  return flowstream.begin_life(null);
end $$;

-- A commit that was acknowledged must outlive a crash, whatever the session is set to.
create or replace function flowstream.flush_commit() returns void
language plpgsql volatile as $$
begin
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
end $$;

-- Whether a process that knew this lineage, and WAL up to there, shows that the server was rolled
-- back: it has counted fewer lives than that, or has less WAL in the same one. Who knows an earlier
-- life had less than the WAL with which the next one began; and that one is here.
create or replace function flowstream.is_rolled_back(
  l flowstream.log, p_lineage text, p_wal bigint) returns boolean
language plpgsql volatile as $$
begin
  if l.lineage = p_lineage then return p_wal > flowstream.flushed(); end if;
  return split_part(l.lineage, ':', 1) = split_part(p_lineage, ':', 1)
    and split_part(l.lineage, ':', 2) = split_part(p_lineage, ':', 2)
    and l.life < split_part(p_lineage, ':', 3)::bigint;
end $$;

-- The log as a process must see it that knew this lineage, and WAL up to there.
create or replace function flowstream.seen_log(p_lineage text, p_wal bigint) returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log := flowstream.current_log();
begin
  if flowstream.is_rolled_back(l, p_lineage, p_wal) then
    perform flowstream.flush_commit();
    return flowstream.begin_life(l.life, split_part(p_lineage, ':', 3)::bigint);
  end if;
  return l;
end $$;

-- The log, for a process that appends. It must know the lineage that is, or it would go on to say
-- of a life what it has of another one. It asks again with `hello`. '' knows none.
create or replace function flowstream.known_log(p_lineage text, p_wal bigint)
returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log := flowstream.current_log();
begin
  if p_lineage = '' or l.lineage = p_lineage and p_wal <= flowstream.flushed() then return l; end if;
  raise exception 'the log is of another lineage' using errcode = 'LG001';
end $$;

create or replace function flowstream.hello(p_lineage text, p_wal bigint)
returns table(o_version int, o_lineage text, o_wal bigint, o_epoch text, o_read_only boolean)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp as $$
declare l flowstream.log;
begin
  o_version := flowstream.version();
  o_read_only := pg_is_in_recovery() or current_setting('transaction_read_only')::boolean;
  if not o_read_only then
    l := flowstream.seen_log(p_lineage, p_wal);
    o_lineage := l.lineage;
    o_epoch := l.epoch;
    o_wal := flowstream.flushed();
  end if;
  return next;
end $$;

-- Begin a new life if a reader has what the log has not, and the topic's new epoch if it is due.
create or replace function flowstream.touch(p_topic text, p_epoch text, p_number bigint)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare l flowstream.log; t flowstream.topic;
begin
  perform flowstream.flush_commit();
  perform flowstream.current_log();
  select * into l from flowstream.log for update;
  t := flowstream.touched_topic(l, p_topic);
  if t.gone <= clock_timestamp() then return; end if;
  if flowstream.is_evidence(
      coalesce(t.epochs, l.epoch || ':1'), coalesce(t.head, 0), p_epoch, p_number) then
    if p_epoch !~ '^[0-9a-v]{11}0{0,5}$' then p_epoch := ''; end if;
    l := flowstream.begin_life(l.life, 0, p_epoch);
    perform flowstream.touched_topic(l, p_topic, p_epoch);
  end if;
end $$;

-- The topic with its row locked, in the log's lineage; a row of nulls if there is none. An epoch
-- that it begins sorts behind `p_epoch`.
create or replace function flowstream.touched_topic(
  l flowstream.log, p_topic text, p_epoch text default '')
returns flowstream.topic
language plpgsql volatile as $$
declare t flowstream.topic;
begin
  select * into t from flowstream.topic where name = p_topic for update;
  if t.lineage <> l.lineage then
    t.epochs := flowstream.begin_epoch(t.epochs, t.head, p_epoch);
    t.lineage := l.lineage;
    update flowstream.topic set epochs = t.epochs, lineage = t.lineage where id = t.id;
    perform pg_notify('flowstream', t.id::text);
  end if;
  return t;
end $$;

-- Every topic begins a new epoch: after the database was restored from a copy.
create or replace function flowstream.new_epoch() returns void
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp as $$
begin
  perform flowstream.flush_commit();
  perform flowstream.begin_life((select life from flowstream.log));
end $$;
