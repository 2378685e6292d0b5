-- with: life topic
-- ARGV: 6 topic, 7 the key behind which to begin, or ''
local topic = find(ARGV[6])
if not topic then return {now, log_epoch .. ':1', 0, 1, {}, false} end
local latest, keys = prefix .. 'latest:' .. topic.name, prefix .. 'keys:' .. topic.name
local found, size, cursor = {}, 0, ARGV[7]
while true do
  local more = call('ZRANGEBYLEX', keys, '(' .. cursor, '+', 'LIMIT', 0, 32)
  for _, key in ipairs(more) do
    local value = call('HGET', latest, key)
    if value then
      size = size + #value
      if #found > 0 and size > @PAGE_BYTES@ then
        return {topic.now, topic.epochs, topic.number, first_kept(topic), found, cursor}
      end
      found[#found + 1] = {key, value}
    end
    cursor = key
  end
  if #more < 32 then break end
end
return {topic.now, topic.epochs, topic.number, first_kept(topic), found, false}
