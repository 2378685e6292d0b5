-- with: life topic retention
-- ARGV: 6 how many topics to look at
-- Deletes what is over its time. Returns how many topics it looked at.
local names = call('ZRANGEBYSCORE', prefix .. 'due', '-inf', now, 'LIMIT', 0, ARGV[6])
for _, name in ipairs(names) do
  local topic = find(name)
  if topic then
    local limit = topic.age and topic.now - topic.age
    local more = cut(topic, topic.items, topic.bytes, limit)
    local oldest = time_of(topic, 0)
    local due = topic.touched + FORGET
    if topic.owner then
      due = topic.lapses + (topic.ended and 0 or FORGET)
    elseif not oldest and due <= now then
      forget(name)
      use_up_log_epoch(topic)
      due = nil
    end
    if due then
      if more then
        due = now
      elseif oldest and topic.age then
        due = math.min(due, oldest + topic.age)
      end
      topic.due = nil
      look_at(topic, more and now or math.max(due, now + 60000000))
    end
  end
end
return #names
