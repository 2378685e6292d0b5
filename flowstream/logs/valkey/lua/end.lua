-- with: life topic retention entries lease
-- ARGV: 6 topic, 7 token, 8 what it keeps, 9 fencing token, 10 for how many microseconds it is kept,
-- 11 '1': only if the lease has lapsed, 12 on: the entry
local topic = find(ARGV[6])
if not topic or not topic.owner then return false end
if topic.fence ~= ARGV[9] then return 'FENCED' end
if topic.ended then
  call('HSET', topic.key, 'number', topic.number)  -- for WAIT
elseif ARGV[11] ~= '1' or topic.lapses <= now then
  open(topic)
  append(topic, ARGV[7], ARGV[8], 12)
  settle(topic)
  topic.ended, topic.lapses = '1', now + tonumber(ARGV[10])
  call('HSET', topic.key, 'ended', '1', 'until', whole(topic.lapses))
  topic.due = nil
  look_at(topic, topic.lapses)
end
return lease_of(topic)
