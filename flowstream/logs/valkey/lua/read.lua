-- with: life topic
-- ARGV: 6 topic, 7 and 8 the epoch and number to read behind, 9 most rows, 10 '1': the position is proof
local name, epoch, after, limit = ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local topic = find(name)

-- Whether the log has lost what a reader of it has. An older epoch may have been forgotten.
local function is_evidence()
  local last, number = log_epoch, 0
  if topic then last, number = last_epoch(topic.epochs), topic.number end
  return is_behind(epoch, last) or (epoch == last and after > number)
end

if ARGV[10] == '1' and is_evidence() then
  -- A server that was flushed may have forgotten how far the epochs were.
  if is_behind(epoch, newest) and #epoch >= 11 and #epoch <= 16 then newest = epoch end
  begin_life()
  if topic then begin_epoch(topic) end
end
if not topic then
  local known = epoch == log_epoch and after == 0
  return {now, log_epoch .. ':1', 0, 1, known and 1 or 0, {}}
end

-- The number to read behind; nil if the topic knows no such position.
local function locate()
  local behind
  for one, begins in string.gmatch(topic.epochs, '([^,:]+):(%d+)') do
    begins = tonumber(begins)
    if behind then return math.min(behind, begins - 1) end
    if one == epoch then
      if after < begins - 1 then return nil end
      behind = after
    end
  end
  return behind and behind <= topic.number and behind or nil
end

local first, behind = first_kept(topic), locate()
local rows, size = {}, 0
local start = behind and math.max(behind + 1, first) or topic.number + 1
local ask = 8  -- more at once when the first ones say how large they are
while start <= topic.number and #rows < limit do
  ask = math.min(ask, limit - #rows)
  local found = call('XRANGE', topic.events, start, '+', 'COUNT', ask)
  local full = #found < ask
  for _, row in ipairs(found) do
    size = size + #row[2][4]
    if #rows > 0 and size > @PAGE_BYTES@ then
      full = true
      break
    end
    rows[#rows + 1] = row
  end
  if full or #rows == 0 then break end
  start = tonumber(string.match(rows[#rows][1], '^%d+')) + 1
  ask = math.min(256, math.floor((@PAGE_BYTES@ - size) * #rows / (size + 1)) + 1)
end
return {topic.now, topic.epochs, topic.number, first, behind and 1 or 0, rows}
