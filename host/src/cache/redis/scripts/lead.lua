-- Takes the lead, or renews it.
--
-- KEYS[1]: the place of the leader. ARGV: the holder, and for how many milliseconds.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if holder then return 0 end
-- The first write is one that is let through when memory is used up.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
