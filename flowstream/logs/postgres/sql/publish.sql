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
