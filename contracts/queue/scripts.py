"""All Lua scripts that run in Redis.

Each is one atomic step of a structure that several processes change. The scripts are in one place
because those that write a key and those that read it have to agree.
"""

from contracts.queue.messages import ID_LENGTH, ID_OFFSET
from contracts.queue.redis_keys import ABANDONED_PREFIX, READY_EXPIRE_MS

_CLOCK = """
local function micros()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
local function text(number) return string.format('%.0f', number) end
"""

_MARK = """
local function mark(scheduled, expires, set, name)
  if not redis.call('SET', scheduled, '1', 'NX', 'PX', expires) then return false end
  redis.call('ZADD', set, text(micros() / 1000 + expires), name)
  redis.call('PEXPIRE', set, expires)
  return true
end
"""
"""Whether a task has to be sent; then it is marked as scheduled."""

_GET_READY = f"""
local function get_ready(ready, queue)
  local added = redis.call('ZADD', ready, 'NX', text(micros()), queue)
  redis.call('PEXPIRE', ready, {READY_EXPIRE_MS})
  return added == 1 and redis.call('ZCARD', ready) == 1
end
"""
"""Name a queue among the ready ones of its group; whether it is the only one."""

PUSH = (
    _CLOCK
    + _MARK
    + _GET_READY
    + """
local function notify(bell)
  if redis.call('EXISTS', bell) == 0 then redis.call('RPUSH', bell, '1') end
  redis.call('PEXPIRE', bell, ARGV[4])
end
local depth = redis.call('LLEN', KEYS[1])
local count = #ARGV - 5
if depth > 0 and depth + count > tonumber(ARGV[1]) then
  if KEYS[6] then get_ready(KEYS[6], KEYS[1]) end
  local scheduled = mark(KEYS[2], ARGV[3], KEYS[4], ARGV[5])
  if scheduled then notify(KEYS[5]) end
  return {0, scheduled and 1 or 0, depth}
end
for i = 6, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
local expires = tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) < expires then redis.call('PEXPIRE', KEYS[1], expires) end
local first = depth == 0
if KEYS[6] then first = get_ready(KEYS[6], KEYS[1]) end
local scheduled = mark(KEYS[2], ARGV[3], KEYS[4], ARGV[5])
if first or scheduled then notify(KEYS[3]) end
if scheduled then notify(KEYS[5]) end
return {1, scheduled and 1 or 0, depth + count}
"""
)
"""Append images to a queue, all or none.

KEYS: queue; `scheduled` and `notify` of the queue or of its group; `scheduled_in` and `notify_in`
of the Celery queue; of a group, `ready`. ARGV: limit, expiry of the queue in ms, expiry of
`scheduled`, expiry of `notify`, the key of the queue or the group, then the packed items. Returns
{1 if they were appended, 0 if it is full; 1 if the caller has to send a task, otherwise 0; depth}:
a full queue may have lost its task.
"""

SCHEDULE_IF_IDLE = (
    _CLOCK
    + _MARK
    + _GET_READY
    + """
if redis.call('LLEN', KEYS[1]) == 0 then return 0 end
if KEYS[4] then get_ready(KEYS[4], KEYS[1]) end
return mark(KEYS[2], ARGV[1], KEYS[3], ARGV[2]) and 1 or 0
"""
)
"""Returns 1 if images wait and no task is scheduled, and marks one as scheduled.

A queue of a group that contains images is among the ready ones afterwards, whatever was lost.
KEYS: queue; `scheduled` of the queue or of its group; `scheduled_in` of the Celery queue; of a
group, `ready`. ARGV: expiry of `scheduled` in ms, the key of the queue or the group.
"""

SCHEDULE = _CLOCK + _MARK + "return mark(KEYS[1], ARGV[1], KEYS[2], ARGV[2]) and 1 or 0"
"""As `SCHEDULE_IF_IDLE`, whether or not images wait.

KEYS: `scheduled` of a queue or a group; `scheduled_in` of the Celery queue. ARGV: as there.
"""

RENEW = (
    _CLOCK
    + """
if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then return end
redis.call('ZADD', KEYS[2], text(micros() / 1000 + ARGV[1]), ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
"""
)
"""Keep a mark of `SCHEDULE`, whose task is still on its way. KEYS and ARGV: as there."""

READ_QUEUES = """
local found = {}
for at, queue in ipairs(KEYS) do
  local depth, rate = redis.call('LLEN', queue), redis.call('GET', queue .. ':rate')
  if depth > 0 or rate then
    found[#found + 1] = at - 1
    found[#found + 1] = depth
    found[#found + 1] = rate or ''
  end
end
return found
"""
"""Depth and rate of those queues that have any, in one answer for hundreds of queues.

KEYS: queues. Returns for each: its place among them from 0, its depth, its rate or ''.
"""

_BEGIN_TAKE = """
local bells = {KEYS[3]}
for at = 5, #KEYS, 2 do bells[#bells + 1] = KEYS[at] end
redis.call('DEL', unpack(bells))
local limit, taken, ids = tonumber(ARGV[1]), {}, {}
"""
"""Forget the notifications: what they tell is looked up below."""

_END_TAKE = """
if #taken > 0 then
  redis.call('SADD', KEYS[2], unpack(ids))
  redis.call('EXPIRE', KEYS[2], 3600)
  return taken
end
for at = 4, #KEYS, 2 do
  local now = text(micros() / 1000)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[at], now, '+inf')) do
    if name ~= ARGV[2] then
      if redis.call('EXISTS', name .. ':scheduled') == 1 then return 1 end
      redis.call('ZREM', KEYS[at], name)
    end
  end
end
return taken
"""
"""Claim what was taken; without any, 1 if something else is scheduled."""

TAKE = (
    _CLOCK
    + _BEGIN_TAKE
    + f"""
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
"""
    + _END_TAKE
)
"""Take up to ARGV[1] images from a queue, drop the abandoned ones and claim the rest.

KEYS: queue, claims, notify, then `scheduled_in` and `notify_in` of each Celery queue that the
worker consumes. ARGV: limit, the queue's key. Returns the packed items; if there are none and
another queue or a group is scheduled, 1.
"""

TAKE_GROUP = (
    _CLOCK
    + _BEGIN_TAKE
    + f"""
local left = {{}}
while #ids < limit do
  local popped = redis.call('ZPOPMIN', KEYS[1], limit - #ids)
  if #popped == 0 then break end
  local queues = {{}}
  for at = 1, #popped, 2 do queues[#queues + 1] = popped[at] end
  while #queues > 0 and #ids < limit do
    local queue = table.remove(queues, 1)
    local raw = redis.call('LPOP', queue)
    if raw then
      queues[#queues + 1] = queue
      local id = string.sub(raw, {ID_OFFSET}, {ID_OFFSET + ID_LENGTH - 1})
      if redis.call('DEL', '{ABANDONED_PREFIX.decode()}' .. id) == 0 then
        taken[#taken + 1] = queue
        taken[#taken + 1] = raw
        ids[#ids + 1] = id
      end
    end
  end
  for _, queue in ipairs(queues) do left[#left + 1] = queue end
end
for at, queue in ipairs(left) do
  if redis.call('EXISTS', queue) == 1 then
    redis.call('ZADD', KEYS[1], text(micros() + at), queue)
    redis.call('PEXPIRE', KEYS[1], {READY_EXPIRE_MS})
  end
end
"""
    + _END_TAKE
)
"""Take up to ARGV[1] images from the queues of a group, one of each in turn.

The queue that was served longest ago is next, so that a model with many images keeps no other
waiting. Abandoned images and names of empty queues are dropped, the rest is claimed.

KEYS: ready, claims, notify, then as for `TAKE`. ARGV: limit, the group's key. Returns pairs of a
queue's key and a packed item; if there are none and something else is scheduled, 1.
"""

GIVE_BACK = """
local count = (#ARGV - 1) / 2
for at = #ARGV, count + 2, -1 do redis.call('LPUSH', KEYS[1], ARGV[at]) end
local expires = tonumber(ARGV[1])
if redis.call('PTTL', KEYS[1]) < expires then redis.call('PEXPIRE', KEYS[1], expires) end
redis.call('SREM', KEYS[2], unpack(ARGV, 2, count + 1))
if KEYS[3] then redis.call('ZREM', KEYS[3], KEYS[1]) end
"""
"""Put images back to the front of their queue, in their order, and release the claims.

The queue is no longer ready, or the same worker would take them again at once. KEYS: queue, claims,
`ready` of the group that they were taken for, if any. ARGV: expiry of the queue in ms, the ids,
then the packed items.
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
