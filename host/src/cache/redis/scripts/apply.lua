-- Applies rows in their order, each by its decision.
--
-- KEYS[1]: the meta hash. KEYS[2...]: the key of each row's entry.
-- ARGV: the epoch and the run of the session; how long tombstones and values are
-- kept, in milliseconds; then for each row: its operation (s: store, r: refresh,
-- e: evict), its class (t: kept as long as a tombstone at least, v: as long as a
-- value), its version, the time to live of its entry, and the entry.
--
-- Returns the rows stored, and 1 when there was no memory for any; -1 when the
-- meta hash is not the one that the session has seen.
--
-- Versions are text of one length: comparing them as text is exact.
local ZERO = string.rep('0', 19)
local call, pcall, sub, match = redis.call, redis.pcall, string.sub, string.match

local function info(section, pattern)
  local text = redis.pcall('INFO', section)
  return type(text) == 'string' and string.match(text, pattern) or ''
end

local function max(a, b)
  if a < b then return b end
  return a
end

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'evicted', 'high', 'floor',
  't:ttl', 't:at', 't:now', 't:before', 'v:ttl', 'v:at', 'v:now', 'v:before')
local run = info('server', 'run_id:(%x+)')
if meta[1] ~= ARGV[1] or run ~= ARGV[2] then return {-1, 0} end

local high, floor = meta[4], meta[5]

-- Whatever the server has evicted since the last time was at most `high`. One that
-- does not say how much it has evicted may have evicted anything.
local evicted = info('stats', 'evicted_keys:(%d+)')
if evicted == '' or evicted ~= meta[3] or run ~= meta[2] then floor = high end

-- What expires must be under the floor by then. Time is cut into halves of the
-- time to live; what was put in during one half cannot expire before the half
-- after the next begins. So two heights are enough: of this half, and of the one
-- before.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function halves(ttl, from)
  local at = math.floor(now / (tonumber(ttl) / 2))
  local was, this, before = tonumber(meta[from + 1]), meta[from + 2], meta[from + 3]
  if meta[from] ~= ttl then
    floor = high
    this, before = ZERO, ZERO
  elseif at == was + 1 then
    floor = max(floor, before)
    this, before = ZERO, this
  elseif at ~= was then
    floor = max(floor, max(this, before))
    this, before = ZERO, ZERO
  end
  return {at = string.format('%.0f', at), this = this, before = before}
end
local class = {t = halves(ARGV[3], 6), v = halves(ARGV[4], 10)}

-- Does nothing, unless memory is used up: then only what frees some is done.
local probe = redis.pcall('HSETNX', KEYS[1], 'epoch', '')
local full = 0
if type(probe) == 'table' and probe.err then
  if not string.find(probe.err, 'OOM', 1, true) then return probe end
  full = 1
  -- After a first write the others are let through, or the heights could not be
  -- kept: they take no memory.
  redis.call('HDEL', KEYS[1], '-')
end

local stored = 0
for i = 2, #KEYS do
  local key, at = KEYS[i], i * 5 - 5
  local op, version = ARGV[at], ARGV[at + 2]
  -- What is not a string is no entry of ours.
  local head = pcall('GETRANGE', key, 0, 20)
  if type(head) ~= 'string' then head = '?' end
  local held = #head == 21 and match(head, '^1[VD](%d+)$')
  if not (held and held >= version) then
    local keep
    if held then
      keep = op ~= 'e'
    else
      keep = version > floor and (op == 's' or (op == 'r' and sub(head, 1, 2) == '1N'))
    end
    if keep and full == 0 then
      call('SET', key, ARGV[at + 4], 'PX', ARGV[at + 3])
      local half = class[ARGV[at + 1]]
      half.this = max(half.this, version)
      stored = stored + 1
    else
      -- Also where a lease was: that is how it is revoked.
      if head ~= '' then call('DEL', key) end
      floor = max(floor, version)
    end
  end
  high = max(high, version)
end

call('HSET', KEYS[1], 'run', run, 'evicted', evicted, 'high', high, 'floor', floor,
  't:ttl', ARGV[3], 't:at', class.t.at, 't:now', class.t.this, 't:before', class.t.before,
  'v:ttl', ARGV[4], 'v:at', class.v.at, 'v:now', class.v.this, 'v:before', class.v.before)
return {stored, full}
