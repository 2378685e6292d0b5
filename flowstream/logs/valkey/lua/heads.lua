-- with: life topic
-- ARGV: 6 on: topics
local heads = {}
for at = 6, #ARGV do
  local topic = find(ARGV[at])
  if topic then
    heads[#heads + 1] = {topic.epochs, topic.number, first_kept(topic)}
  else
    heads[#heads + 1] = {log_epoch .. ':1', 0, 1}
  end
end
return heads
