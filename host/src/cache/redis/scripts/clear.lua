-- Removes entries that were left behind by an earlier epoch, unless a new one has
-- begun.
--
-- KEYS[1]: the meta hash. KEYS[2...]: entries.
if redis.call('EXISTS', KEYS[1]) == 1 then return -1 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return #KEYS - 1
