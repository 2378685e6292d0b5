-- with: life topic retention entries
-- ARGV: from 6 on, for each append: topic, token, what it keeps, fencing token or '', the entries
-- Does all the appends that are given, in order, as one step. Returns for each the places of its events,
-- 'FENCED', or an error: an append that fails takes no other with it.
local topics, order, replies = {}, {}, {}
local tokens = {}  -- by topic
local busy         -- the topic that is appended to
local number, size, latest, body_size, bodies  -- what it had before

-- What is returned for an error that was caught. It begins with a code, in most servers.
local function failure(why)
  local text = type(why) == 'table' and why.err or tostring(why)
  return {err = string.find(text, '^%u[%u%d]* ') and text or 'ERR ' .. text}
end

-- Have the topic of an append that failed be as before it.
local function undo(topic)
  topic.number, topic.size, topic.latest, topic.body_size = number, size, latest, body_size
  for place = #topic.bodies, bodies + 1, -1 do
    topic.bodies[place], topic.sizes[place] = nil, nil
  end
end

-- Settle a topic, if something was appended to it. If that fails, nobody knows what holds.
local function close(topic)
  if not topic.replies then return end
  local done, why = pcall(settle, topic)
  if not done then
    for _, place in ipairs(topic.replies) do replies[place] = failure(why) end
  end
end

-- The topic of that name, as the appends before this one left it; nil if it is not there.
local function look_up(name)
  local topic = topics[name]
  if topic and topic.life == life then return topic end
  if topic then  -- another append of this call has begun a new life
    close(topic)
    topic.replies, topics[name] = nil, nil
  end
  topic = find(name)
  if topic then
    topics[name], topic.known = topic, results_of(topic, tokens[name])
  end
  return topic
end

-- Do the append whose words begin at that place.
local function append_at(at, place)
  local name, token, fence = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local topic = look_up(name)
  if fence ~= '' and (not topic or topic.fence ~= fence or topic.ended) then return 'FENCED' end
  local known = topic and topic.known[token]
  if known then
    -- A write, so that WAIT waits for the replicas to have what the first call wrote.
    call('HSET', topic.key, 'number', topic.number)
    return known
  end
  if not topic then
    topic = make(name, epoch_to_begin_with())
    topics[name], topic.known = topic, {}
  end
  if not topic.length then open(topic) end
  busy = topic
  number, size, latest = topic.number, topic.size, topic.latest
  body_size, bodies = topic.body_size, #topic.bodies
  local result = append(topic, token, ARGV[at + 2], at + 4)
  busy = nil
  topic.known[token] = result
  if not topic.replies then
    topic.replies = {}
    order[#order + 1] = topic
  end
  topic.replies[#topic.replies + 1] = place
  return result
end

-- Where the words of the next append begin.
local function next_at(at)
  return at + 6 + ARGV[at + 4] + ARGV[at + 5] * 4
end

local at = 6
while at <= #ARGV do
  local name = ARGV[at]
  local of = tokens[name]
  if of then of[#of + 1] = ARGV[at + 1] else tokens[name] = {ARGV[at + 1]} end
  at = next_at(at)
end
at = 6
while at <= #ARGV do
  local place = #replies + 1
  local done, reply = pcall(append_at, at, place)
  if not done then
    reply = failure(reply)
    if busy then undo(busy) end
    busy = nil
  end
  replies[place] = reply
  at = next_at(at)
end
for _, topic in ipairs(order) do close(topic) end
return replies
