-- The life of the log: a stretch in which the server can't have lost what it acknowledged.
--
-- KEYS[1]  the log. What all other keys begin with is what it begins with.
-- ARGV[1]  '1': ask the server who it is
-- ARGV[2]  an epoch that may begin
-- ARGV[3]  a name for a life that may begin
-- ARGV[4]  '1': the server never loses anything, whoever it is
-- ARGV[5]  what the names of channels begin with; by itself the channel of the whole log
--
-- All times are of the server, in microseconds since 1970.

local call = redis.call
local prefix = string.sub(KEYS[1], 1, -4)
local channel = ARGV[5]
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]
local log = call('HMGET', KEYS[1], 'life', 'epoch', 'newest', 'server')
local life, log_epoch, newest = log[1], log[2], log[3] or ''
local lives = 0

local DIGITS = '0123456789abcdefghijklmnopqrstuv'

-- A number as text with all its digits.
local function whole(number)
  return string.format('%.0f', number)
end

-- Whether a text sorts behind another, byte by byte: `<` would ask the server's locale.
local function is_behind(one, other)
  for at = 1, math.max(#one, #other) do
    local a, b = string.byte(one, at) or -1, string.byte(other, at) or -1
    if a ~= b then return a > b end
  end
  return false
end

-- The first epoch that is sure to sort behind another: see flowstream/ids/_event_id.py.
local function next_epoch(epoch)
  if #epoch < 16 then return epoch .. '0' end
  local at = 11
  while string.sub(epoch, at, at) == 'v' do at = at - 1 end
  local digit = string.find(DIGITS, string.sub(epoch, at, at), 1, true)
  return string.sub(epoch, 1, at - 1) .. string.sub(DIGITS, digit + 1, digit + 1)
    .. string.rep('0', 11 - at)
end

-- An epoch that sorts behind all that this log has ever had.
local function new_epoch()
  newest = is_behind(ARGV[2], newest) and ARGV[2] or next_epoch(newest)
  call('HSET', KEYS[1], 'newest', newest)
  return newest
end

-- Have topics that are not there yet begin with a new epoch.
local function retire_log_epoch()
  log_epoch = new_epoch()
  call('HSET', KEYS[1], 'epoch', log_epoch)
end

-- Have every topic begin a new epoch at its next touch.
local function begin_life()
  lives = lives + 1
  life = ARGV[3] .. lives
  retire_log_epoch()
  call('HSET', KEYS[1], 'life', life, 'topics', call('ZCARD', prefix .. 'due'))
  call('PUBLISH', channel, 'L')
end

if ARGV[1] == '1' or not life then
  local is = call('INFO', 'server') .. call('INFO', 'replication')
  if not string.find(is, 'role:master', 1, true) then
    return redis.error_reply('READONLY the server is a replica')
  end
  local server = string.match(is, 'run_id:(%w+)') .. ' ' .. string.match(is, 'master_replid:(%w+)')
  if server ~= log[4] then
    if not life or ARGV[4] ~= '1' then begin_life() end
    call('HSET', KEYS[1], 'server', server)
  end
end
