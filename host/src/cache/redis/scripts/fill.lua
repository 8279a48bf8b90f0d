-- Puts an entry in the place of its lease.
--
-- KEYS[1]: the meta hash. KEYS[2]: the entry. ARGV: the lease; the class of the
-- entry (t, v; n: it has no version), its version, its time to live, the entry.
--
-- Returns 1: done; 0: the lease is not there, or there is no position yet, and what
-- is not followed is not kept; 2: no memory.
local held = redis.pcall('GETRANGE', KEYS[2], 0, #ARGV[1])
if held ~= ARGV[1] then return 0 end

local class = ARGV[2]
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'high', class .. ':now', class .. ':ttl')
if not meta[1] then
  redis.call('DEL', KEYS[2])
  return 0
end
-- Does nothing, unless memory is used up.
local probe = redis.pcall('HSETNX', KEYS[1], 'epoch', '')
if type(probe) == 'table' and probe.err then
  if not string.find(probe.err, 'OOM', 1, true) then return probe end
  redis.call('DEL', KEYS[2])
  return 2
end
if class == 'n' then
  redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[4])
  return 1
end
-- Not shorter than what the heights are kept for: the hydrator may be another host,
-- with other settings.
local px = ARGV[4]
if tonumber(px) < tonumber(meta[4]) + 1000 then
  px = string.format('%.0f', tonumber(meta[4]) + 1000)
end
redis.call('SET', KEYS[2], ARGV[5], 'PX', px)
if meta[2] < ARGV[3] then redis.call('HSET', KEYS[1], 'high', ARGV[3]) end
if meta[3] < ARGV[3] then redis.call('HSET', KEYS[1], class .. ':now', ARGV[3]) end
return 1
