-- Append many jobs of many topics in one transaction: the call of clients.
--
-- To begin a statement takes the server several times what it takes to add a row. So the jobs of
-- one topic are taken together, whatever their number: one statement counts the topic's row up for
-- all of them and takes its lock, one stores their tokens and events. Nothing is looked up first.
--
-- That is for what is *plain*: the topic is there, in the log's lineage and with the same bounds as
-- before, there are no keys, all fences hold, and all tokens are new. Jobs that are not go one by
-- one through `append_one`. Whether fences hold and tokens are new shows when the row is counted up
-- already; then that is taken back. Its lock is held, so nobody has seen it.
--
-- Topics are taken in the order of their names, so that transactions that cross wait for each other
-- in one direction.
--
-- Functions that a client calls say how their statements are planned: once a session, and by
-- indexes. To plan one for all partitions takes longer than to run it, and the statistics of a
-- table that was empty a moment ago would have it read from end to end.

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
  l flowstream.log := flowstream.known_log(p_lineage, p_wal);
  v_jobs int := cardinality(p_topics);
  v_from int := 1;        -- the topic's first job
  v_to int;               -- and its last
  v_at int := 1;          -- its first entry
  n int;                  -- how many it has
  v_name text;
  v_before text := '';
  v_number bigint;
  v_epoch text;
  v_touched timestamptz;
  v_due boolean;
  v_done boolean;
begin
  if current_setting('synchronous_commit') = 'off' then perform flowstream.flush_commit(); end if;
  while v_from <= v_jobs loop
    v_name := p_topics[v_from];
    if v_name collate "C" < v_before then
      raise exception 'topics must be sorted by the bytes of their names'
        using errcode = 'invalid_parameter_value';
    end if;
    v_before := v_name;
    v_to := v_from;
    n := p_counts[v_from];
    while v_to < v_jobs and p_topics[v_to + 1] = v_name loop
      v_to := v_to + 1;
      n := n + p_counts[v_to];
    end loop;

    v_done := false;
    if n > 0 and (p_keys is null and p_idempotency is null or not exists (
        select from unnest(p_keys[v_at : v_at + n - 1], p_idempotency[v_at : v_at + n - 1])
          as entry(key, asked) where key is not null or asked is not null)) then
      update flowstream.topic x set
        head = x.head + n,
        size = x.size + case when n = 1 then octet_length(p_data[v_at]) else
          (select sum(octet_length(d)) from unnest(p_data[v_at : v_at + n - 1]) d) end,
        touched = greatest(clock_timestamp(), x.touched)
        where x.name = v_name and x.lineage = l.lineage and x.gone = 'infinity' and not x.deleted
          and x.items = p_items[v_to] and x.seconds = p_seconds[v_to] and x.bytes = p_bytes[v_to]
        returning x.id, x.epochs, flowstream.last_epoch(x.epochs), x.head - n, x.touched,
          flowstream.is_due(x, n)
        into o_topic, o_epochs, v_epoch, v_number, v_touched, v_due;
      v_done := found;
    end if;
    if v_done and n = 1 and v_from = v_to and p_fences[v_from] is null then
      with told as (
        insert into flowstream.token
          values (o_topic, p_tokens[v_from], v_number + 1, v_epoch || ':' || v_number + 1 || ':0:1')
          on conflict do nothing returning result)
      insert into flowstream.event(topic, number, day, at, data)
        select o_topic, v_number + 1, (v_touched at time zone 'UTC')::date, v_touched, p_data[v_at]
        from told;
      v_done := found;
      if not found then perform flowstream.take_back(o_topic, v_number, array[p_data[v_at]]); end if;
    elsif v_done then
      with told as (
        insert into flowstream.token
          select o_topic, token, behind, v_epoch || ':' || behind - of_job + 1 || ':0:' || of_job
          from (
            select token, of_job, fence, v_number + sum(of_job) over (order by place) as behind
            from unnest(p_tokens[v_from : v_to], p_counts[v_from : v_to], p_fences[v_from : v_to])
              with ordinality as job(token, of_job, fence, place)) job
          where of_job > 0 and (fence is null or exists (select from flowstream.lease
            where topic = v_name and lease.token = fence and not ended))
          on conflict do nothing returning number)
      insert into flowstream.event(topic, number, day, at, data)
        select o_topic, v_number + place, (v_touched at time zone 'UTC')::date, v_touched, d
        from unnest(p_data[v_at : v_at + n - 1]) with ordinality as entry(d, place)
        where (select count(*) from told) = v_to - v_from + 1;
      v_done := found;
      if not found then
        perform flowstream.take_back(o_topic, v_number, p_data[v_at : v_at + n - 1]);
      end if;
    end if;

    if v_done then
      if v_due then perform flowstream.keep_bounds(o_topic, n); end if;
      o_fenced := false;
      o_wal := (pg_current_wal_insert_lsn() - '0/0')::bigint;
      for v_job in v_from .. v_to loop
        o_first := v_number + 1;
        o_added := p_counts[v_job];
        o_results := v_epoch || ':' || o_first || ':0:' || o_added;
        return next;
        v_number := v_number + o_added;
      end loop;
      v_at := v_at + n;
    else
      for v_job in v_from .. v_to loop
        n := p_counts[v_job];
        -- a slice walks through all that is before it; one element does not
        select a.o_topic, a.o_epochs, a.o_first, a.o_added, a.o_results, a.o_fenced
          into o_topic, o_epochs, o_first, o_added, o_results, o_fenced
          from flowstream.append_one(l, v_name,
            case when n = 1 then array[p_data[v_at]] else p_data[v_at : v_at + n - 1] end,
            p_keys[v_at : v_at + n - 1], p_idempotency[v_at : v_at + n - 1],
            p_idempotency_seconds[v_at : v_at + n - 1],
            p_tokens[v_job], p_fences[v_job], p_items[v_job], p_seconds[v_job], p_bytes[v_job]) a;
        o_wal := case when o_added > 0 then (pg_current_wal_insert_lsn() - '0/0')::bigint
          else flowstream.flushed() end;
        return next;
        v_at := v_at + n;
      end loop;
    end if;
    v_from := v_to + 1;
  end loop;
end $$;
