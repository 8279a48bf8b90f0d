-- Saves the position if the saved one is still what it was; begins an epoch when
-- there is none.
--
-- KEYS[1]: the meta hash. ARGV: 1 or 0: whether there was a position; it; the new
-- position; the new epoch, or nothing while entries of an earlier one may be left;
-- how long tombstones and values are kept, in milliseconds.
--
-- Returns {0}: it is not what it was; {1}: saved; {2}: remove what is left, then
-- come again with an epoch; {3, run}: an epoch has begun.
local held = redis.call('HGET', KEYS[1], 'position')
if held then
  if ARGV[1] == '0' or held ~= ARGV[2] then return {0} end
  -- After a first write the next is let through also when memory is used up.
  redis.call('HDEL', KEYS[1], '-')
  redis.call('HSET', KEYS[1], 'position', ARGV[3])
  return {1}
end
if ARGV[1] == '1' then return {0} end
if ARGV[4] == '' then return {2} end

local function info(section, pattern)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and string.match(text, pattern) or ''
end
local run, evicted = info('server', 'run_id:(%x+)'), info('stats', 'evicted_keys:(%d+)')
local zero = string.rep('0', 19)
-- The heights begin in the present half, or what is filled before the first batch
-- would count as of long ago.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function half(ttl)
  return string.format('%.0f', math.floor(now / (tonumber(ttl) / 2)))
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[4], 'position', ARGV[3], 'run', run,
  'evicted', evicted, 'high', zero, 'floor', zero,
  't:ttl', ARGV[5], 't:at', half(ARGV[5]), 't:now', zero, 't:before', zero,
  'v:ttl', ARGV[6], 'v:at', half(ARGV[6]), 'v:now', zero, 'v:before', zero)
return {3, run}
