-- What people see who look.
--
-- KEYS: entries. ARGV[1]: how many bytes of each.
--
-- Returns for each its first bytes and the time that it has left in milliseconds
-- (-1: no end, or it may not be asked; -2: it is not there).
local found = {}
for i = 1, #KEYS do
  local head = redis.pcall('GETRANGE', KEYS[i], 0, ARGV[1] - 1)
  local left = redis.pcall('PTTL', KEYS[i])
  found[i] = {type(head) == 'string' and head or '', type(left) == 'number' and left or -1}
end
return found
