-- What a topic forgets. Its bounds of items and bytes may be exceeded by an eighth, because to cut
-- events off costs reads; readers compute the bound of items and the age.

-- Events that one call may cut off: others wait for the server.
local CUTS = 5000

-- Cut off the oldest events, until no more than so many, of so many bytes, are left, all of them
-- younger than `limit`. Return whether there is more to cut off.
local function cut(topic, items, bytes, limit)
  local length = call('XLEN', topic.events)
  if length == 0 then topic.size = 0 end
  local left, size = length, topic.size
  while left > 0 and length - left < CUTS do
    local rows = call('XRANGE', topic.events, '-', '+', 'COUNT', 16)
    local count = 0
    for _, row in ipairs(rows) do
      if left - count <= items and size <= bytes
        and not (limit and tonumber(row[2][2]) <= limit) then break end
      count = count + 1
      size = size - #row[2][4]
    end
    if count == 0 then break end
    left = left - count
    call('XTRIM', topic.events, 'MAXLEN', '=', left)
    if count < #rows then break end
  end
  topic.size = left == 0 and 0 or math.max(0, size)
  call('HSET', topic.key, 'size', topic.size)
  return length - left >= CUTS
end

-- Have a topic that was just appended to keep within its bounds.
local function keep_within(topic, length)
  if topic.items == 0 then
    call('UNLINK', topic.events)
    call('HSET', topic.key, 'size', 0)
  elseif topic.size > topic.bytes * 1.125
    or length > topic.items + math.max(math.floor(topic.items / 8), 64) then
    if cut(topic, topic.items, topic.bytes) then look_at(topic, topic.now) end
  end
  if topic.age then
    look_at(topic, topic.now + topic.age)
    -- Should no worker run any more, the server deletes them by itself.
    if topic.now + topic.age > topic.expires then
      topic.expires = topic.now + topic.age + DAY / 48
      call('PEXPIREAT', topic.events, whole(topic.expires / 1000))
      call('HSET', topic.key, 'expires', whole(topic.expires))
    end
  elseif topic.expires > 0 then
    topic.expires = 0
    call('PERSIST', topic.events)
    call('HSET', topic.key, 'expires', 0)
  end
end
