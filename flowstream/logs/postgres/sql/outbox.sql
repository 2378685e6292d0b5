-- The outbox: publish inside a transaction of the app, with any driver.
--
-- `put` takes an event at any point of the transaction. When that commits, a deferred trigger
-- appends what it took, so a topic's row is locked for one flush and not for the transaction. A
-- rollback takes the events with it. Rows never outlive a transaction, so the table is unlogged.
--
-- `relay` takes an event for a worker, which appends it soon after the commit. Use it in
-- transactions that are REPEATABLE READ or SERIALIZABLE: appended by the trigger, they would fail
-- with 40001 if somebody else has appended to the topic since they began.

-- What `put` checks is no constraint of the table: the server reads each of these anew for each row.
create unlogged table if not exists flowstream.outbox(
  id bigint generated always as identity primary key,
  tx xid8 not null default pg_current_xact_id() check (tx = pg_current_xact_id()),
  topic text collate "C" not null,
  data bytea not null,
  key text collate "C",
  idempotency_key text collate "C",
  idempotency_seconds float8 not null default 300,
  items bigint,
  seconds float8,
  bytes bigint,
  notify boolean not null default true
);

-- Asked for first: "if not exists" would wait for all who write to the table, and hold them up.
do $$
begin
  if to_regclass('flowstream.outbox_tx') is null then
    create index outbox_tx on flowstream.outbox(tx);
  end if;
end $$;

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
  if not (length($1) between 1 and 1024 and octet_length($2) <= 67108864
      and coalesce(length($3) between 1 and 1024, true)
      and coalesce(length($4) between 1 and 1024, true)
      and coalesce($5 > 0 and $5 < 'Infinity', true)
      and coalesce($6 >= 0, true) and coalesce($7 > 0, true) and coalesce($8 > 0, true)) then
    raise exception 'this event can not be published: topic and keys have 1 to 1024 characters, data '
      'up to 64 MiB, and bounds are above 0' using errcode = 'check_violation';
  end if;
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
  x flowstream.outbox;
  a record;
begin
  perform flowstream.flush_commit();
  if cardinality(p_rows) = 1 then  -- as nearly always: there is nothing to sort
    x := p_rows[1];
    a := flowstream.append_one(l, x.topic, array[x.data], array[x.key], array[x.idempotency_key],
      array[x.idempotency_seconds], null, null, x.items, x.seconds, x.bytes);
    if x.notify and a.o_added > 0 then
      perform pg_notify('flowstream', a.o_topic || ' ' || flowstream.last_epoch(a.o_epochs) || ' '
        || a.o_first);
    end if;
    return;
  end if;
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
