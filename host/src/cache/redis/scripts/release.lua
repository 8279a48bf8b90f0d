-- Removes a lease, or the place of a leader, if it still is this one's.
--
-- KEYS[1]: where it stands. ARGV[1]: what stands there.
if redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
