-- with: life topic retention entries
-- ARGV: 6 topic, 7 token, 8 what it keeps, 9 fencing token or '', 10 on: the entries
local name, token, keep, fence = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local topic = find(name)
if fence ~= '' and (not topic or topic.fence ~= fence or topic.ended) then return {'FENCED'} end
local known = topic and result_of(topic, token)
if known then
  -- A write, so that WAIT waits for the replicas to have what the first call wrote.
  call('HSET', topic.key, 'number', topic.number)
  return {known}
end
if not topic then topic = make(name, epoch_to_begin_with()) end
return {append(topic, token, keep, 10), whole(topic.now)}
