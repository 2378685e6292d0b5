-- with: life topic
-- ARGV: 6 topic. Returns what it has and what is said to be there, for an operator; false if it is none.
local topic = find(ARGV[6])
if not topic then return false end
local first = first_kept(topic)
local last, holes, stored, kept, kept_size, newest = 0, 0, 0, 0, 0, false
local start = '-'
while true do
  local rows = call('XRANGE', topic.events, start, '+', 'COUNT', 256)
  for _, row in ipairs(rows) do
    local number = tonumber(string.match(row[1], '^%d+'))
    if last > 0 and number ~= last + 1 then holes = holes + 1 end
    last, stored = number, stored + #row[2][4]
    if number >= first then
      kept, kept_size, newest = kept + 1, kept_size + #row[2][4], row[2][2]
    end
  end
  if #rows < 256 then break end
  start = '(' .. rows[#rows][1]
end
local listed = call('ZSCORE', prefix .. 'names', topic.name) and 1 or 0
local due = call('ZSCORE', prefix .. 'due', topic.name) and 1 or 0
return {
  whole(topic.now), topic.epochs, topic.number, first, kept, kept_size, newest, topic.keep,
  topic.deleted and 1 or 0, last, holes, stored, topic.size, listed, due,
}
