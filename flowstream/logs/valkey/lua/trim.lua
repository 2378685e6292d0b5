-- with: life topic retention
-- ARGV: 6 topic, 7 what to keep, or '' for what it keeps anyway
-- Returns how many events were forgotten, and whether there is more to forget.
local topic = find(ARGV[6])
if not topic then return {0, 0} end
local before, items, bytes, age = first_kept(topic), topic.items, topic.bytes, topic.age
if ARGV[7] ~= '' then
  local wanted = {}
  set_keep(wanted, ARGV[7])
  items, bytes, age = wanted.items, wanted.bytes, wanted.age
end
local limit = age and topic.now - age
local more = cut(topic, items, bytes, limit)
return {math.max(0, first_kept(topic) - before), more and 1 or 0}
