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
  name text collate "C" not null unique,
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

create table if not exists flowstream.latest(
  topic bigint not null, key text collate "C" not null,
  epoch text not null, number bigint not null, at timestamptz not null, data bytea not null,
  primary key (topic, key)
);

create table if not exists flowstream.lease(
  topic text collate "C" primary key check (length(topic) between 1 and 1024),
  owner text not null,
  token bigint not null,
  until timestamptz not null,              -- when it lapses; when it is forgotten, if it has ended
  ended boolean not null default false
);

-- Asked for first: "if not exists" would wait for all who write to the table, and hold them up.
do $$
begin
  if to_regclass('flowstream.topic_due') is null then
    create index topic_due on flowstream.topic(due);
  end if;
  if to_regclass('flowstream.key_until') is null then
    create index key_until on flowstream.key(until);
  end if;
  if to_regclass('flowstream.latest_number') is null then
    create index latest_number on flowstream.latest(topic, number);
  end if;
  if to_regclass('flowstream.lease_until') is null then
    create index lease_until on flowstream.lease(until);
  end if;
end $$;
