-- with: life topic lease
-- ARGV: 6 topic, 7 owner, 8 for how many microseconds, 9 the fencing token to take the place of, or ''
local name, owner, duration, instead = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local topic = find(name)
if not topic then
  topic = make(name, new_epoch(), '1')
  give(topic, owner, duration)
elseif not topic.owner then
  use_up_log_epoch(topic)
  restart(topic)
  give(topic, owner, duration)
elseif topic.fence == instead and (topic.ended or topic.lapses <= now) then
  if topic.ended then restart(topic) end
  give(topic, owner, duration)
elseif topic.owner == owner and not topic.ended then
  renew(topic, duration)
end
return lease_of(topic)
