-- with: life topic
-- ARGV: 6 topic
local topic = find(ARGV[6])
if topic and (topic.owner or not topic.deleted) then
  restart(topic)
  call('HDEL', topic.key, 'owner', 'fence', 'until', 'ended')
end
return 0
