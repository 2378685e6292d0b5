begin;

select pg_catalog.pg_advisory_xact_lock(7305808868124291449);
do $$
declare v_encoding text; v_owner text;
begin
  select pg_catalog.pg_encoding_to_char(encoding) into v_encoding from pg_catalog.pg_database
    where datname = pg_catalog.current_database();
  if v_encoding <> 'UTF8' then
    raise exception 'the encoding of the database is %, and flowstream needs UTF8', v_encoding
      using errcode = 'feature_not_supported';
  end if;
  if pg_catalog.current_setting('server_version_num')::int < 130000 then
    raise exception 'flowstream needs Postgres 13 or later, not %',
      pg_catalog.current_setting('server_version') using errcode = 'feature_not_supported';
  end if;
  select pg_catalog.pg_get_userbyid(nspowner) into v_owner from pg_catalog.pg_namespace
    where nspname = 'flowstream';
  if v_owner <> current_user then
    raise exception 'the schema flowstream belongs to %, so only that role can make the log in it',
      v_owner using errcode = 'insufficient_privilege';
  end if;
end $$;
set local client_min_messages = warning;
set local search_path = pg_catalog, flowstream, pg_temp;
create schema if not exists flowstream;
-- What the log on Postgres keeps. All of it is in the schema `flowstream`, and nobody but its owner
-- may read or write a table: roles of the app get functions alone.
--
-- A topic is a *counter row*: who appends to it holds its lock until the commit. So numbers are in
-- the order of commits, and a reader that sees one can read all before it. A sequence is drawn
-- before the commit, and would let readers pass a number that is committed later.
--
-- Only additions are made to these tables, with "if not exists": a later release upgrades them.

create table if not exists flowstream.log(
  one boolean primary key default true check (one),
  epoch text not null,          -- of topics that were never appended to
  life bigint not null default 1,          -- counts how often the log may have lost something
  lineage text not null default '',        -- what the server said of itself when the epoch began
  failover_loses boolean not null default true,  -- whether a new timeline is a new life
  fence bigint not null default 0          -- the newest fencing token
);

create table if not exists flowstream.topic(
  id bigint generated always as identity primary key,
  name text collate "C" not null unique check (length(name) between 1 and 1024),
  head bigint not null default 0,          -- number of the newest event
  floor bigint not null default 1,         -- number of the oldest that items and bytes keep
  size bigint not null default 0,          -- bytes of the events from floor on
  epochs text not null,                    -- the last 8, "epoch:first,epoch:first"
  lineage text not null,                   -- the log's, when the last epoch began
  items bigint not null default 1000,      -- Replay, as it was last appended with
  seconds float8 not null default 'Infinity',
  bytes bigint not null default 8388608,
  latest_keys bigint not null default 0,   -- how many rows `latest` has of it
  latest_bytes bigint not null default 0,
  touched timestamptz not null default clock_timestamp(),  -- when it was last appended to
  gone timestamptz not null default 'infinity',  -- from then on it reads as if it had never been
  deleted boolean not null default false,
  due timestamptz not null default clock_timestamp() + interval '7 days'  -- when to look at it
) with (fillfactor = 40);
create index if not exists topic_due on flowstream.topic(due);

-- One partition a day. `kept` has what is still kept of days whose partition was dropped, under
-- the day -infinity. `rest` has days for which nobody has made a partition: publishing goes on.
create table if not exists flowstream.event(
  topic bigint not null,
  number bigint not null,
  day date not null,                       -- of `at`, in UTC
  at timestamptz not null,
  data bytea not null,
  primary key (topic, number, day)
) partition by range (day);
create table if not exists flowstream.event_kept
  partition of flowstream.event for values from (minvalue) to ('2000-01-01');
create table if not exists flowstream.event_rest partition of flowstream.event default;

create table if not exists flowstream.token(
  topic bigint not null, token text collate "C" not null,
  number bigint not null,                  -- the topic's head behind that append
  result text not null,                    -- runs of "epoch:number:duplicate:count"
  primary key (topic, token)
);

create table if not exists flowstream.key(
  topic bigint not null, key text collate "C" not null,
  epoch text not null, number bigint not null, until timestamptz not null,
  primary key (topic, key)
);
create index if not exists key_until on flowstream.key(until);

create table if not exists flowstream.latest(
  topic bigint not null, key text collate "C" not null,
  epoch text not null, number bigint not null, at timestamptz not null, data bytea not null,
  primary key (topic, key)
);
create index if not exists latest_number on flowstream.latest(topic, number);

create table if not exists flowstream.lease(
  topic text collate "C" primary key check (length(topic) between 1 and 1024),
  owner text not null,
  token bigint not null,
  until timestamptz not null,              -- when it lapses; when it is forgotten, if it has ended
  ended boolean not null default false
);
create index if not exists lease_until on flowstream.lease(until);
-- Epochs: stretches of a topic in which nothing that was acknowledged can have been lost.
--
-- The server says in each transaction which *lineage* it is of: its cluster, its timeline, and the
-- life that is counted in `log`. A topic whose lineage is another one begins a new epoch at its
-- first touch. Clients never say which life it is: two with different views would begin an epoch
-- each at every publish.
--
-- A new life begins on evidence: somebody had more from this log than it has. That is compared and
-- set, so that many who find the same out begin one.
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

-- A new epoch, which sorts behind `p_last`: 7 characters of seconds, 4 of chance.
create or replace function flowstream.new_epoch_behind(p_last text) returns text
language plpgsql volatile as $$
declare v_epoch text;
begin
  v_epoch := flowstream.base32(floor(extract(epoch from clock_timestamp()))::bigint, 7)
    || flowstream.base32(floor(random() * 1048576)::bigint, 4);
  if v_epoch collate "C" > p_last then return v_epoch; end if;
  if length(p_last) < 16 then return p_last || '0'; end if;
  return flowstream.base32(flowstream.unbase32(left(p_last, 11)) + 1, 11);
end $$;

create or replace function flowstream.last_epoch(p_epochs text) returns text
language sql immutable as $$ select substring(p_epochs from '([^,:]+):[^,]*$') $$;

create or replace function flowstream.first_of_epochs(p_epochs text) returns bigint
language sql immutable as $$ select split_part(split_part(p_epochs, ',', 1), ':', 2)::bigint $$;

-- The epochs with a new one, which begins behind `p_number`; the last 8 are kept.
create or replace function flowstream.begin_epoch(p_epochs text, p_number bigint) returns text
language plpgsql volatile as $$
declare v_all text[] := string_to_array(p_epochs, ',');
begin
  v_all := v_all || (flowstream.new_epoch_behind(flowstream.last_epoch(p_epochs))
    || ':' || p_number + 1);
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
-- is of another lineage. Returns the log as it is now.
create or replace function flowstream.begin_life(p_life bigint) returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log; v_lineage text;
begin
  select * into strict l from flowstream.log for update;
  if l.life = p_life then l.life := l.life + 1; end if;
  v_lineage := flowstream.lineage(l);
  if l.lineage <> v_lineage then
    l.lineage := v_lineage;
    l.epoch := flowstream.new_epoch_behind(l.epoch);
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

-- The log as a process that knew this lineage, and WAL up to there, must see it. If the server has
-- less WAL than that, it was rolled back, whatever it is called.
create or replace function flowstream.seen_log(p_lineage text, p_wal bigint) returns flowstream.log
language plpgsql volatile as $$
declare l flowstream.log := flowstream.current_log();
begin
  if l.lineage = p_lineage and p_wal > flowstream.flushed() then
    perform flowstream.flush_commit();
    return flowstream.begin_life(l.life);
  end if;
  return l;
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
    l := flowstream.begin_life(l.life);
    perform flowstream.touched_topic(l, p_topic);
  end if;
end $$;

-- The topic with its row locked, in the log's lineage; a row of nulls if there is none.
create or replace function flowstream.touched_topic(l flowstream.log, p_topic text)
returns flowstream.topic
language plpgsql volatile as $$
declare t flowstream.topic;
begin
  select * into t from flowstream.topic where name = p_topic for update;
  if t.lineage <> l.lineage then
    t.epochs := flowstream.begin_epoch(t.epochs, t.head);
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
-- Leases: which owner may append to a run's topic, and until when.
--
-- A lease changes hands under the lock of its topic's row, and an append that has a fence looks at
-- the lease under that lock. So an append of an old owner is committed before the new one has the
-- lease, or refused.

create or replace function flowstream.holds(p_topic text, p_fence bigint) returns boolean
language sql volatile as $$
  select exists (select from flowstream.lease
    where topic = p_topic and token = p_fence and not ended)
$$;

-- Whether a lease is there: it has not been forgotten yet.
create or replace function flowstream.is_there(x flowstream.lease, p_now timestamptz)
returns boolean
language sql stable as $$
  select x.topic is not null
    and x.until > case when x.ended then p_now else p_now - interval '7 days' end
$$;

create or replace function flowstream.leases(p_topics text[])
returns table(o_topic text, o_owner text, o_token bigint, o_seconds float8, o_ended boolean)
language sql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
  select x.topic, x.owner, x.token, extract(epoch from x.until - clock_timestamp())::float8, x.ended
  from flowstream.lease x
  where x.topic = any(p_topics) and flowstream.is_there(x, clock_timestamp())
$$;

-- Take a topic's lease; `p_instead` takes over one that has lapsed or ended.
create or replace function flowstream.claim(
  p_topic text, p_owner text, p_seconds float8, p_instead bigint default null)
returns table(o_topic text, o_owner text, o_token bigint, o_seconds float8, o_ended boolean)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  l flowstream.log;
  t flowstream.topic;
  x flowstream.lease;
  v_now timestamptz;
  v_there boolean;
begin
  perform flowstream.flush_commit();
  select * into x from flowstream.lease where topic = p_topic;
  if not flowstream.is_there(x, clock_timestamp()) or (x.owner = p_owner and not x.ended)
      or x.token = p_instead then
    perform flowstream.current_log();
    select * into l from flowstream.log for update;
    insert into flowstream.topic(name, epochs, lineage, deleted)
      values (p_topic, l.epoch || ':1', l.lineage, true) on conflict (name) do nothing;
    t := flowstream.touched_topic(l, p_topic);
    select * into x from flowstream.lease where topic = p_topic for update;
    v_now := clock_timestamp();
    v_there := flowstream.is_there(x, v_now);
    if v_there and x.owner = p_owner and not x.ended then
      update flowstream.lease set until = flowstream.after(v_now, p_seconds) where topic = p_topic;
    elsif not v_there or x.token = p_instead and (x.ended or x.until <= v_now) then
      if not v_there or x.ended then
        if t.head >= t.floor or not t.deleted or t.gone < 'infinity' then
          perform flowstream.clear(t, t.head);
          perform pg_notify('flowstream', t.id::text);
        end if;
        update flowstream.topic set touched = greatest(touched, v_now) where id = t.id;
      end if;
      update flowstream.log set fence = greatest(fence + 1, floor(extract(epoch from v_now) * 1e6))
        returning fence into l.fence;
      insert into flowstream.lease
        values (p_topic, p_owner, l.fence, flowstream.after(v_now, p_seconds), false)
        on conflict (topic) do update set owner = excluded.owner, token = excluded.token,
          until = excluded.until, ended = false;
    end if;
  end if;
  return query select * from flowstream.leases(array[p_topic]);
end $$;

-- Renew leases that are still the owner's; returns those that are there.
create or replace function flowstream.beat(
  p_owner text, p_topics text[], p_tokens bigint[], p_seconds float8)
returns table(o_topic text, o_owner text, o_token bigint, o_seconds float8, o_ended boolean)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
begin
  perform flowstream.flush_commit();
  perform 1 from flowstream.lease where topic = any(p_topics) order by topic for update;
  update flowstream.lease x set until = flowstream.after(clock_timestamp(), p_seconds)
    from unnest(p_topics, p_tokens) as mine(topic, token)
    where x.topic = mine.topic and x.token = mine.token and x.owner = p_owner and not x.ended
      and flowstream.is_there(x, clock_timestamp());
  return query select * from flowstream.leases(p_topics);
end $$;

-- Append the last event, and mark the lease ended. No row: there is no lease. `o_fenced`: its token
-- is another one.
create or replace function flowstream.finish(
  p_topic text, p_fence bigint, p_token text, p_items bigint, p_seconds float8, p_bytes bigint,
  p_data bytea, p_key text, p_keep_seconds float8, p_lapsed boolean,
  p_idempotency text default null, p_idempotency_seconds float8 default null)
returns table(o_topic text, o_owner text, o_token bigint, o_seconds float8, o_ended boolean,
  o_id bigint, o_epochs text, o_first bigint, o_added int, o_fenced boolean)
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  l flowstream.log;
  x flowstream.lease;
  a record;
  v_now timestamptz;
begin
  perform flowstream.flush_commit();
  l := flowstream.current_log();
  o_added := 0;
  o_fenced := false;
  perform flowstream.touched_topic(l, p_topic);  -- which a claim has made
  select * into x from flowstream.lease where topic = p_topic for update;
  v_now := clock_timestamp();
  if not flowstream.is_there(x, v_now) then return; end if;
  if x.token <> p_fence then
    o_fenced := true;
  elsif not x.ended and (not p_lapsed or x.until <= v_now) then
    a := flowstream.append_one(l, p_topic, array[p_data], array[p_key], array[p_idempotency],
      array[p_idempotency_seconds], p_token, null, p_items, p_seconds, p_bytes);
    o_id := a.o_topic; o_epochs := a.o_epochs; o_first := a.o_first; o_added := a.o_added;
    x.ended := true;
    x.until := flowstream.after(v_now, p_keep_seconds);
    update flowstream.lease set until = x.until, ended = true where topic = p_topic;
    update flowstream.topic set gone = x.until, due = least(due, x.until) where id = a.o_topic;
  end if;
  o_topic := x.topic; o_owner := x.owner; o_token := x.token; o_ended := x.ended;
  o_seconds := extract(epoch from x.until - v_now);
  return next;
end $$;
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
-- The outbox: publish inside a transaction of the app, with any driver.
--
-- `put` takes an event at any point of the transaction. When that commits, a deferred trigger
-- appends what it took, so a topic's row is locked for one flush and not for the transaction. A
-- rollback takes the events with it. Rows never outlive a transaction, so the table is unlogged.
--
-- `relay` takes an event for a worker, which appends it soon after the commit. Use it in
-- transactions that are REPEATABLE READ or SERIALIZABLE: appended by the trigger, they would fail
-- with 40001 if somebody else has appended to the topic since they began.

create unlogged table if not exists flowstream.outbox(
  id bigint generated always as identity primary key,
  tx xid8 not null default pg_current_xact_id() check (tx = pg_current_xact_id()),
  topic text collate "C" not null check (length(topic) between 1 and 1024),
  data bytea not null check (octet_length(data) <= 67108864),
  key text collate "C" check (length(key) between 1 and 1024),
  idempotency_key text collate "C" check (length(idempotency_key) between 1 and 1024),
  idempotency_seconds float8 not null default 300
    check (idempotency_seconds > 0 and idempotency_seconds < 'Infinity'),
  items bigint check (items >= 0),
  seconds float8 check (seconds > 0),
  bytes bigint check (bytes > 0),
  notify boolean not null default true
);
create index if not exists outbox_tx on flowstream.outbox(tx);

-- One row for each transaction that has rows in `outbox`: the trigger runs once.
create unlogged table if not exists flowstream.committing(
  tx xid8 primary key default pg_current_xact_id()
);

create table if not exists flowstream.relay(
  like flowstream.outbox including defaults including identity, primary key (id),
  check (length(topic) between 1 and 1024),
  check (octet_length(data) <= 67108864),
  check (length(key) between 1 and 1024),
  check (length(idempotency_key) between 1 and 1024),
  check (idempotency_seconds > 0 and idempotency_seconds < 'Infinity'),
  check (items >= 0), check (seconds > 0), check (bytes > 0)
);

create or replace function flowstream.put(
  topic text, data bytea, key text default null,
  idempotency_key text default null, idempotency_seconds float8 default 300,
  items bigint default null, seconds float8 default null, bytes bigint default null,
  notify boolean default true) returns void
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp as $$
begin
  insert into flowstream.committing default values on conflict do nothing;
  insert into flowstream.outbox(topic, data, key, idempotency_key, idempotency_seconds, items,
      seconds, bytes, notify)
    values ($1, $2, $3, $4, coalesce($5, 300), $6, $7, $8, coalesce($9, true));
end $$;

create or replace function flowstream.relay(
  topic text, data bytea, key text default null,
  idempotency_key text default null, idempotency_seconds float8 default 300,
  items bigint default null, seconds float8 default null, bytes bigint default null,
  notify boolean default true) returns void
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp as $$
begin
  insert into flowstream.relay(topic, data, key, idempotency_key, idempotency_seconds, items,
      seconds, bytes, notify)
    values ($1, $2, $3, $4, coalesce($5, 300), $6, $7, $8, coalesce($9, true));
  if coalesce($9, true) then perform pg_notify('flowstream', 'relay'); end if;
end $$;

-- Append rows of one of the tables, sorted by topic; each topic's in the order of their ids.
create or replace function flowstream.append_rows(p_rows flowstream.outbox[]) returns void
language plpgsql volatile as $$
declare
  l flowstream.log := flowstream.current_log();
  r record;
  a record;
begin
  perform flowstream.flush_commit();
  for r in
    select topic, array_agg(data order by id) as data, array_agg(key order by id) as keys,
      array_agg(idempotency_key order by id) as asked,
      array_agg(idempotency_seconds order by id) as asked_seconds,
      (array_agg(items order by id desc) filter (where items is not null))[1] as items,
      (array_agg(seconds order by id desc) filter (where seconds is not null))[1] as seconds,
      (array_agg(bytes order by id desc) filter (where bytes is not null))[1] as bytes,
      bool_or(notify) as notify
    from unnest(p_rows) group by topic order by topic
  loop
    a := flowstream.append_one(l, r.topic, r.data, r.keys, r.asked, r.asked_seconds,
      null, null, r.items, r.seconds, r.bytes);
    if r.notify and a.o_added > 0 then
      perform pg_notify('flowstream', a.o_topic || ' ' || flowstream.last_epoch(a.o_epochs) || ' '
        || a.o_first + a.o_added - 1);
    end if;
  end loop;
end $$;

create or replace function flowstream.flush() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare v_rows flowstream.outbox[];
begin
  if current_query() ~* '^(\s|--[^\n]*\n|/\*.*?\*/)*prepare\s+transaction\M' then
    raise exception 'a transaction that publishes to flowstream can not be prepared'
      using errcode = 'feature_not_supported',
      hint = 'Commit it in one phase, or publish with flowstream.relay.';
  end if;
  delete from flowstream.committing where tx = new.tx;
  with taken as (delete from flowstream.outbox where tx = new.tx returning *)
    select array_agg(taken order by id) into v_rows from taken;
  if v_rows is not null then perform flowstream.append_rows(v_rows); end if;
  return null;
end $$;

do $$
begin
  if not exists (select from pg_catalog.pg_trigger
      where tgrelid = 'flowstream.committing'::pg_catalog.regclass and tgname = 'flush') then
    create constraint trigger flush after insert on flowstream.committing
      deferrable initially deferred for each row execute function flowstream.flush();
  end if;
end $$;

-- Append what waits in `relay`; returns how many events that were. One of all who call it at the
-- same time does it.
create or replace function flowstream.empty_relay(p_limit int default 500) returns int
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp
set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
declare v_rows flowstream.outbox[];
begin
  if not pg_try_advisory_xact_lock(7305808868124291448) then return 0; end if;
  with taken as (
    delete from flowstream.relay where id in (
      select id from flowstream.relay order by id limit p_limit) returning *)
    select array_agg(row(taken.*)::flowstream.outbox order by id) into v_rows from taken;
  if v_rows is null then return 0; end if;
  perform flowstream.append_rows(v_rows);
  return cardinality(v_rows);
end $$;
-- Publish JSON from plain SQL: the envelope that `Topic.publish` writes, as MessagePack. See
-- flowstream/topics/_envelope.py.

create or replace function flowstream.msgpack(p_data bytea, p_short int, p_long int) returns bytea
language plpgsql immutable as $$
declare n int := octet_length(p_data);
begin
  -- p_short is the mark of one byte of length, and p_long - 1 and p_long of two and of four
  if n < 256 and p_short is not null then
    return decode(lpad(to_hex(p_short), 2, '0') || lpad(to_hex(n), 2, '0'), 'hex') || p_data;
  elsif n < 65536 then
    return decode(to_hex(p_long - 1) || lpad(to_hex(n), 4, '0'), 'hex') || p_data;
  end if;
  return decode(to_hex(p_long) || lpad(to_hex(n), 8, '0'), 'hex') || p_data;
end $$;

create or replace function flowstream.msgpack(p_text text) returns bytea
language plpgsql immutable as $$
declare v_bytes bytea := convert_to(p_text, 'UTF8');
begin
  if p_text is null then return '\xc0'; end if;
  if octet_length(v_bytes) < 32 then
    return decode(to_hex(160 + octet_length(v_bytes)), 'hex') || v_bytes;
  end if;
  return flowstream.msgpack(v_bytes, 217, 219);
end $$;

create or replace function flowstream.publish(
  topic text, data jsonb, type text default null, key text default null,
  idempotency_key text default null, idempotency_seconds float8 default 300,
  essential boolean default false, retry int default null, notify boolean default true)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, flowstream, pg_temp as $$
begin
  if data is null then
    raise exception 'data must be JSON, not NULL: write ''null''::jsonb'
      using errcode = 'null_value_not_allowed';
  end if;
  if retry < 0 then
    raise exception 'retry must be 0 or more milliseconds, not %', retry
      using errcode = 'invalid_parameter_value';
  end if;
  perform flowstream.put(topic,
    '\x970102'::bytea
      || flowstream.msgpack(convert_to(data::text, 'UTF8'), 196, 198)
      || flowstream.msgpack(type)
      || flowstream.msgpack(key)
      || case when essential then '\xc3'::bytea else '\xc2'::bytea end
      || case when retry is null then '\xc0'::bytea
           else decode('ce' || lpad(to_hex(retry), 8, '0'), 'hex') end,
    's' || key, idempotency_key, idempotency_seconds, null, null, null, notify);
end $$;
-- The version of the schema. A worker checks it when it connects. It is made last, so that a schema
-- that is not whole has none.

create or replace function flowstream.version() returns int
language sql immutable set search_path = pg_catalog, pg_temp as $$ select 1 $$;

insert into flowstream.log(epoch) values ('') on conflict do nothing;
select flowstream.current_log();
select flowstream.keep_partitions();

revoke all on schema flowstream from public;
revoke all on all tables in schema flowstream from public;
revoke all on all sequences in schema flowstream from public;
revoke all on all functions in schema flowstream from public;
commit;
