-- A topic, as it is stored under several keys:
--
--   topic:NAME       a hash: how far it has come, what it keeps, whose it is
--   events:NAME      a stream: the number of an event is its id
--   tokens:NAME      a hash: what the last appends returned, by token; tokens-before:NAME, older ones
--   latest:NAME      a hash: the newest event of each key; keys:NAME, written:NAME, its orders
--   once:NAME 0 KEY  a text: what was published with an idempotency key
--
-- and in `due`, a sorted set of all topics by when to look for what is over its time, and `names`,
-- one of those that were not deleted.

local DAY = 86400000000
local FORGET = @FORGET_SECONDS@ * 1000000

-- Tell those who watch a topic that it has changed.
local function notice(name)
  call('PUBLISH', channel .. name, 'E')
end

-- Delete what a topic has beside its hash.
local function clear(name)
  call('UNLINK', prefix .. 'events:' .. name, prefix .. 'tokens:' .. name,
    prefix .. 'tokens-before:' .. name, prefix .. 'latest:' .. name, prefix .. 'keys:' .. name,
    prefix .. 'written:' .. name)
end

-- The last epoch in a list of them, with their first numbers.
local function last_epoch(epochs)
  return string.match(epochs, '([^,:]+):%d+$')
end

-- Have the topic begin a new epoch behind its newest event.
local function begin_epoch(topic)
  local parts = {}
  for part in string.gmatch(topic.epochs, '[^,]+') do parts[#parts + 1] = part end
  parts[#parts + 1] = new_epoch() .. ':' .. topic.number + 1
  topic.epochs = table.concat(parts, ',', math.max(1, #parts - @EPOCHS_KEPT@ + 1))
  call('HSET', topic.key, 'life', life, 'epochs', topic.epochs)
  -- The life may have begun because a list of topics was lost.
  if call('ZADD', prefix .. 'due', 'NX', topic.due, topic.name) == 1 then
    call('HINCRBY', KEYS[1], 'topics', 1)
  end
  if not topic.deleted then call('ZADD', prefix .. 'names', 0, topic.name) end
  notice(topic.name)
end

-- Have a topic that is over its time, or was lost, be as if it had never been.
local function forget(name)
  clear(name)
  call('UNLINK', prefix .. 'topic:' .. name)
  call('ZREM', prefix .. 'names', name)
  if call('ZREM', prefix .. 'due', name) == 1 then call('HINCRBY', KEYS[1], 'topics', -1) end
  notice(name)
end

-- Have topics that are not there yet begin with another epoch, if this one may have begun with it.
local function use_up_log_epoch(topic)
  if not is_behind(log_epoch, last_epoch(topic.epochs)) then retire_log_epoch() end
end

-- Have the sweep look at a topic by then.
local function look_at(topic, at)
  if not topic.due or at < topic.due then
    topic.due = at
    call('ZADD', prefix .. 'due', at, topic.name)
    call('HSET', topic.key, 'due', whole(at))
  end
end

-- Set what the topic keeps: a text with items, bytes and microseconds; 0 of these is for ever.
local function set_keep(topic, keep)
  local items, bytes, age = string.match(keep, '(%d+) (%d+) (%d+)')
  topic.keep, topic.items, topic.bytes = keep, tonumber(items), tonumber(bytes)
  topic.age = age ~= '0' and tonumber(age) or nil
end

-- The topic of that name, in this life; nil if it is not there.
local function find(name)
  local key = prefix .. 'topic:' .. name
  local got = call('HMGET', key, 'life', 'epochs', 'number', 'size', 'keep', 'touched', 'due',
    'deleted', 'turned', 'expires', 'latest', 'birth', 'owner', 'fence', 'until', 'ended')
  if not got[1] then
    if call('ZSCORE', prefix .. 'due', name) then  -- somebody else has deleted it
      forget(name)
      retire_log_epoch()
    end
    return nil
  end
  local topic = {
    name = name, key = key, epochs = got[2], number = tonumber(got[3]), size = tonumber(got[4]),
    touched = tonumber(got[6]), due = tonumber(got[7]), deleted = got[8], turned = tonumber(got[9]),
    expires = tonumber(got[10]), latest = tonumber(got[11]), birth = got[12], owner = got[13],
    fence = got[14], lapses = tonumber(got[15]), ended = got[16],
    events = prefix .. 'events:' .. name,
  }
  if topic.owner and now >= topic.lapses + (topic.ended and 0 or FORGET) then
    forget(name)  -- it began with an epoch of its own, so the log's is not used up
    return nil
  end
  set_keep(topic, got[5])
  topic.now = math.max(now, topic.touched)  -- ages never go back
  if got[1] ~= life then begin_epoch(topic) end
  topic.life = life
  return topic
end

-- Make a topic that is not there. It begins with `epoch`.
local function make(name, epoch, deleted)
  local topic = {
    name = name, key = prefix .. 'topic:' .. name, events = prefix .. 'events:' .. name,
    epochs = epoch .. ':1', number = 0, size = 0, touched = now, deleted = deleted, turned = 0,
    expires = 0, latest = 0, birth = epoch, now = now, life = life,
  }
  set_keep(topic, '0 0 0')
  -- The first write is one that a full server refuses; behind it, it refuses nothing more.
  call('HSET', topic.key, 'life', life, 'epochs', topic.epochs, 'number', 0, 'size', 0,
    'keep', topic.keep, 'touched', whole(now), 'turned', 0, 'expires', 0, 'latest', 0,
    'birth', epoch)
  clear(name)
  if deleted then call('HSET', topic.key, 'deleted', deleted) end
  look_at(topic, now + FORGET)
  call('HINCRBY', KEYS[1], 'topics', 1)
  return topic
end

-- The log's epoch for a topic that is about to be made. If the list of topics has been deleted,
-- nobody knows which epochs they had.
local function epoch_to_begin_with()
  if call('ZCARD', prefix .. 'due') ~= tonumber(call('HGET', KEYS[1], 'topics') or 0) then
    begin_life()
  end
  return log_epoch
end

-- Have a topic begin anew: no events, keys or tokens, and a new epoch. Numbers go on.
local function restart(topic)
  clear(topic.name)
  topic.birth = new_epoch()
  topic.epochs = topic.birth .. ':' .. topic.number + 1
  topic.size, topic.touched, topic.deleted, topic.expires = 0, topic.now, '1', 0
  call('HSET', topic.key, 'epochs', topic.epochs, 'birth', topic.birth, 'size', 0,
    'touched', whole(topic.now), 'deleted', '1', 'turned', topic.number, 'expires', 0, 'latest', 0)
  call('ZREM', prefix .. 'names', topic.name)
  look_at(topic, topic.now + FORGET)
  notice(topic.name)
end

-- When the event of that number was appended; nil if it is not there.
local function time_of(topic, number)
  local rows = call('XRANGE', topic.events, number, '+', 'COUNT', 1)
  return rows[1] and tonumber(rows[1][2][2])
end

-- The number of the oldest event that may be read.
local function first_kept(topic)
  local length = call('XLEN', topic.events)
  local first = math.max(topic.number + 1 - length, topic.number + 1 - topic.items)
  if topic.age and first <= topic.number then
    local limit = topic.now - topic.age
    if (time_of(topic, first) or now) <= limit then
      local old, young = first, topic.number + 1
      while young - old > 1 do
        local middle = math.floor((old + young) / 2)
        if (time_of(topic, middle) or now) <= limit then old = middle else young = middle end
      end
      first = young
    end
  end
  return first
end
