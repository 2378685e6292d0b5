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
