-- The lease of a topic: its owner, its fencing token, until when it holds, whether it has ended. All are
-- in the topic's hash. An ended lease is kept `until` then, and its topic with it.

-- The lease as it is returned; false if there is none.
local function lease_of(topic)
  if not topic or not topic.owner then return false end
  return {topic.owner, topic.fence, whole(topic.lapses - now), topic.ended and 1 or 0}
end

-- Have the lease hold for so many microseconds from now.
local function renew(topic, duration)
  topic.lapses = now + duration
  call('HSET', topic.key, 'until', whole(topic.lapses))
  look_at(topic, topic.lapses + FORGET)
end

-- Give the topic to an owner, with a fencing token that no lease had before.
local function give(topic, owner, duration)
  local last = tonumber(call('HGET', KEYS[1], 'fence') or 0)
  topic.owner, topic.fence, topic.ended = owner, whole(math.max(last + 1, now)), false
  call('HSET', KEYS[1], 'fence', topic.fence)
  call('HDEL', topic.key, 'ended')
  call('HSET', topic.key, 'owner', owner, 'fence', topic.fence)
  renew(topic, duration)
end
