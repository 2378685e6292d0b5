-- Append entries to a topic: `open` it, `append` as often as there is something, and `settle`. From
-- ARGV[at] on: how many entries there are, how many of them have more than data, the data of each, and
-- for each that has more: its place, its key, its idempotency key and for how many milliseconds that is
-- known.

-- Bytes of the data that go with a hint; a server ends a connection that lets 32 MiB wait.
local HINT_BYTES = @HINT_BYTES@

-- Put an event in the place of the last one of its key.
local function put_latest(topic, key, value)
  local latest, written = prefix .. 'latest:' .. topic.name, prefix .. 'written:' .. topic.name
  topic.latest = topic.latest + #value - call('HSTRLEN', latest, key)
  if call('HSET', latest, key, value) == 1 then
    call('ZADD', prefix .. 'keys:' .. topic.name, 0, key)
  end
  call('ZADD', written, topic.number, key)
  while topic.latest > @LATEST_BYTES@ or call('ZCARD', written) > @LATEST_KEYS@ do
    local oldest = call('ZPOPMIN', written)[1]
    if not oldest then break end
    topic.latest = topic.latest - call('HSTRLEN', latest, oldest)
    call('HDEL', latest, oldest)
    call('ZREM', prefix .. 'keys:' .. topic.name, oldest)
  end
end

-- What earlier appends with these tokens returned, by token.
local function results_of(topic, tokens)
  local known = {}
  for _, key in ipairs(topic.turned > 0 and {'tokens:', 'tokens-before:'} or {'tokens:'}) do
    for place, result in ipairs(call('HMGET', prefix .. key .. topic.name, unpack(tokens))) do
      if result then known[tokens[place]] = result end
    end
  end
  return known
end

-- Remember what appends returned. Of the last 1,024 events and more the tokens are known: when the
-- hash has those of so many, it takes the place of the one before it.
local function remember(topic)
  local tokens = prefix .. 'tokens:' .. topic.name
  if topic.number - topic.turned >= @TOKEN_EVENTS@ and call('EXISTS', tokens) == 1 then
    call('RENAME', tokens, prefix .. 'tokens-before:' .. topic.name)
    topic.turned = topic.number
    call('HSET', topic.key, 'turned', topic.turned)
  end
  call('HSET', tokens, unpack(topic.results))
end

-- Have a topic ready to be appended to.
local function open(topic)
  topic.length = call('XLEN', topic.events)
  if topic.length == 0 then topic.size = 0 end
  topic.before, topic.body_size = topic.number, 0
  topic.sizes, topic.bodies, topic.results = {}, {}, {}
end

-- Append the entries; return each one's place, neighbours together: epoch:first:duplicate:count.
local function append(topic, token, keep, at)
  local count, extras = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local first = at + 1  -- the place before the first data
  local more
  if extras > 0 then
    more = {}
    for place = first + count + 1, first + count + extras * 4, 4 do
      more[tonumber(ARGV[place])] = place
    end
  end
  if keep ~= topic.keep then
    call('HSET', topic.key, 'keep', keep)
    set_keep(topic, keep)
  end
  local epoch, stamp = last_epoch(topic.epochs), whole(topic.now)
  local runs, sizes, bodies = {}, topic.sizes, topic.bodies
  local run  -- {epoch, first, duplicate, count}
  for place = 1, count do
    local data, extra = ARGV[first + place], more and more[place]
    local key, once = extra and ARGV[extra + 1] or '', extra and ARGV[extra + 2] or ''
    local of, number, duplicate = epoch, nil, '0'
    local once_key = once ~= '' and prefix .. 'once:' .. topic.name .. '\0' .. once
    local known = once_key and call('GET', once_key)
    if known then
      local birth, known_epoch, known_number = string.match(known, '(%S+) (%S+) (%S+)')
      if birth == topic.birth then
        of, number, duplicate = known_epoch, tonumber(known_number), '1'
      end
    end
    if not number then
      topic.number = topic.number + 1
      number = topic.number
      if topic.items > 0 then call('XADD', topic.events, number, 't', stamp, 'd', data) end
      topic.size = topic.size + #data
      topic.body_size = topic.body_size + #data
      sizes[#sizes + 1] = #data
      bodies[#bodies + 1] = data
      if once_key then
        call('SET', once_key, topic.birth .. ' ' .. epoch .. ' ' .. number, 'PX', ARGV[extra + 3])
      end
      if key ~= '' then
        put_latest(topic, key, epoch .. ' ' .. number .. ' ' .. stamp .. ' ' .. data)
      end
    end
    if run and run[1] == of and run[2] + run[4] == number and run[3] == duplicate then
      run[4] = run[4] + 1
    else
      run = {of, number, duplicate, 1}
      runs[#runs + 1] = run
    end
  end
  for place, one in ipairs(runs) do runs[place] = table.concat(one, ':') end
  local result = table.concat(runs, ' ')
  local results = topic.results
  results[#results + 1] = token
  results[#results + 1] = result
  return result
end

-- Write down how far the topic has come, forget what it does not keep, and tell of what is new.
local function settle(topic)
  remember(topic)
  if topic.deleted or topic.before == 0 then
    call('HDEL', topic.key, 'deleted')
    call('ZADD', prefix .. 'names', 0, topic.name)
  end
  local stamp = whole(topic.now)
  call('HSET', topic.key, 'number', topic.number, 'size', topic.size, 'touched', stamp,
    'latest', topic.latest)
  keep_within(topic, topic.length + topic.number - topic.before)
  if topic.number > topic.before then
    if topic.body_size > HINT_BYTES then
      notice(topic.name)
    else
      call('PUBLISH', channel .. topic.name, 'A ' .. last_epoch(topic.epochs) .. ' '
        .. topic.before + 1 .. ' ' .. stamp .. ' ' .. table.concat(topic.sizes, ' ') .. '\n'
        .. table.concat(topic.bodies))
    end
  end
end
