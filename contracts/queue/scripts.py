"""All Lua scripts that run in Redis.

Each is one atomic step of a structure that several processes change. The scripts are in one place
because those that write a key and those that read it have to agree.
"""

from contracts.queue.messages import ID_LENGTH, ID_OFFSET
from contracts.queue.redis_keys import ABANDONED_PREFIX

PUSH = """
local depth = redis.call('LLEN', KEYS[1])
local count = #ARGV - 4
if depth > 0 and depth + count > tonumber(ARGV[1]) then return {-1, depth} end
for i = 5, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
local expires = tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) < expires then redis.call('PEXPIRE', KEYS[1], expires) end
local scheduled = redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3])
if depth == 0 or scheduled then
  if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('RPUSH', KEYS[3], '1') end
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {scheduled and 1 or 0, depth + count}
"""
"""Append images to a queue, all or none.

KEYS: queue, scheduled, notify. ARGV: limit, expiry of the queue in ms, expiry of `scheduled`,
expiry of `notify`, then the packed items. Returns {-1 if full, 1 if the caller has to send a task,
otherwise 0; depth}.
"""

SCHEDULE_IF_IDLE = """
if redis.call('LLEN', KEYS[1]) == 0 then return 0 end
return redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1]) and 1 or 0
"""
"""Returns 1 if images wait and no task is scheduled, and marks one as scheduled.

KEYS: queue, scheduled. ARGV: expiry of `scheduled` in ms.
"""

TAKE = f"""
redis.call('DEL', KEYS[3])
local limit, taken, ids = tonumber(ARGV[1]), {{}}, {{}}
while #taken < limit do
  local raws = redis.call('LPOP', KEYS[1], limit - #taken)
  if not raws then break end
  local marks, of = {{}}, {{}}
  for at, raw in ipairs(raws) do
    of[at] = string.sub(raw, {ID_OFFSET}, {ID_OFFSET + ID_LENGTH - 1})
    marks[at] = '{ABANDONED_PREFIX.decode()}' .. of[at]
  end
  local all = redis.call('EXISTS', unpack(marks)) == 0
  for at, raw in ipairs(raws) do
    if all or redis.call('DEL', marks[at]) == 0 then
      taken[#taken + 1] = raw
      ids[#ids + 1] = of[at]
    end
  end
end
if #taken > 0 then
  redis.call('SADD', KEYS[2], unpack(ids))
  redis.call('EXPIRE', KEYS[2], 3600)
  return taken
end
if #KEYS > 3 and redis.call('EXISTS', unpack(KEYS, 4)) > 0 then return 1 end
return taken
"""
"""Take up to ARGV[1] images from a queue, drop the abandoned ones and claim the rest.

KEYS: queue, claims, notify, then the `scheduled` keys of other queues. Returns the packed items; if
there are none and another queue is scheduled, 1.
"""

ADD_CLIP = """
if redis.call('EXISTS', KEYS[2]) == 1 then return false end
redis.call('LPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
local found = redis.call('LRANGE', KEYS[1], 0, -1)
for at = 3, #KEYS do
  for _, clip in ipairs(redis.call('LRANGE', KEYS[at], 0, -1)) do found[#found + 1] = clip end
end
return found
"""
"""Remember a clip of a subject and return all remembered ones; false if the subject was erased.

A concurrent erasure runs either before this script, which then refuses, or after it and removes
what was added. KEYS: clips, erased, other lists of clips. ARGV: the clip, how many to keep, expiry
in seconds.
"""

CREATE_CHALLENGE = """
for i = 2, 3 do
  local made = redis.call('INCR', KEYS[i])
  if made == 1 then redis.call('EXPIRE', KEYS[i], ARGV[2]) end
  if made > tonumber(ARGV[i + 1]) then return {math.max(1, redis.call('TTL', KEYS[i])), ''} end
end
local actions = redis.call('GET', KEYS[4])
if not actions then
  local drawn = redis.call('INCR', KEYS[5])
  if drawn == 1 then redis.call('EXPIRE', KEYS[5], 3600) end
  if drawn > tonumber(ARGV[5]) then return {math.max(1, redis.call('TTL', KEYS[5])), ''} end
  actions = ARGV[6]
  redis.call('SET', KEYS[4], actions, 'EX', ARGV[2])
end
local kept = cjson.decode(ARGV[1])
kept.actions = cjson.decode(actions)
redis.call('SET', KEYS[1], cjson.encode(kept), 'EX', ARGV[2])
return {0, actions}
"""
"""Store a liveness challenge unless a limit is reached.

KEYS: challenge, challenges of the client, of the client for the subject, current actions, draws of
the subject. ARGV: the challenge as JSON, expiry in seconds, three limits in the order of the
counters, actions to use if there are none yet. Returns {seconds to wait or 0, actions as JSON}.
"""

TAKE_CHALLENGE = """
local left = redis.call('PTTL', KEYS[1])
return {redis.call('GETDEL', KEYS[1]), left}
"""
"""Read and remove a liveness challenge.

KEYS: challenge. Returns {the challenge as JSON or nil, milliseconds until it would have expired}.
"""

DELETE_UNCHANGED = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
"""Delete a key if it still has the value that was read. KEYS: key. ARGV: value. Returns 1 or 0."""

BEGIN_ATTEMPT = """
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local mark, attempt, limits = ARGV[1], ARGV[2] * 1000, cjson.decode(ARGV[3])
local wait = 0
for i = 1, #limits do wait = math.max(wait, redis.call('PTTL', KEYS[4 * i - 3])) end
if wait > 0 then return wait end
for i, limit in ipairs(limits) do
  if limit.places > 0 then
    local failures, attempts = KEYS[4 * i - 2], KEYS[4 * i - 1]
    redis.call('ZREMRANGEBYSCORE', failures, 0, now - limit.window)
    redis.call('ZREMRANGEBYSCORE', attempts, 0, now - attempt)
    local taken = redis.call('ZCARD', failures) + redis.call('ZCARD', attempts)
    if taken >= limit.places then wait = 1000 end
  end
end
if wait > 0 then return wait end
for i, limit in ipairs(limits) do
  if limit.places > 0 then
    redis.call('ZADD', KEYS[4 * i - 1], now, mark)
    redis.call('PEXPIRE', KEYS[4 * i - 1], attempt)
  end
end
return 0
"""
"""Register an attempt to log in; return the milliseconds to wait, or 0 if it may be made.

KEYS: lock, failures, attempts and number of locks of each party. ARGV: attempt id, longest attempt
in seconds, the parties' limits as JSON (`service.faces.locks.lockout.Limit`, in milliseconds).
"""

END_ATTEMPT = """
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local mark, limits, device = ARGV[1], cjson.decode(ARGV[2]), ARGV[3]
local erased, known = redis.call('EXISTS', KEYS[#KEYS - 1]) == 1, KEYS[#KEYS]
local locked = 0
for i, limit in ipairs(limits) do
  local lock, failures, locks = KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i]
  redis.call('ZREM', KEYS[4 * i - 1], mark)
  if limit.counts and not (erased and limit.personal) then
    redis.call('ZADD', failures, now, mark)
    redis.call('ZREMRANGEBYSCORE', failures, 0, now - limit.window)
    redis.call('PEXPIRE', failures, limit.window)
    if redis.call('ZCARD', failures) >= limit.most then
      local earlier = redis.call('INCR', locks) - 1
      redis.call('PEXPIRE', locks, limit.memory)
      local wait = math.min(limit.longest, limit.lock * 2 ^ math.min(earlier, 30))
      redis.call('SET', lock, '1', 'PX', wait)
      if not limit.keeps then redis.call('DEL', failures) end
      locked = 1
    end
  end
end
if device ~= '' and not erased then
  redis.call('ZADD', known, now, device)
  redis.call('ZREMRANGEBYRANK', known, 0, -ARGV[4] - 1)
  redis.call('EXPIRE', known, ARGV[5])
end
return locked
"""
"""End an attempt, count it if it failed, and lock parties that failed too often.

KEYS: lock, failures, attempts and number of locks of each party; then the subject's `erased` key
and its known devices. ARGV: attempt id; the limits as JSON, each with `counts`, whether the failure
counts for that party; the device if the attempt matched, otherwise empty; how many known devices
are kept, and for how many seconds. Returns 1 if it locked a party, otherwise 0.

After a lock, the failures of a party are forgotten, except those of a subject, for which every
further failure within the window is a lock again.
"""
