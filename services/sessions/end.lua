-- Ends one session for good, unless it has ended before or has been active since.
--
-- Keys
--  1  sessions:record:<id>        hash    created_at, last_activity: µs; adopted_token: SHA-256
--  2  sessions:ended:<id>         string  tombstone, kept for the TTL: no cookie made before revives
--                                         the session
--  3  sessions:rate:api:<id>      zset    log of the session's API requests
--  4  sessions:rate:uploads:<id>  zset    log of the session's uploads
--  5  sessions:activity           zset    id of every stored session -> last activity, µs
--  6  sessions:outbox             zset    id of every session whose end is not yet published -> when
--                                         it ended, µs
--
-- Arguments
--  1  the session's id
--  2  TTL of a session, µs
--  3  end it only if it has been idle for this long, µs; 0: in any case
--  4  sessions:ended-token:       what the key of an adopted token's tombstone begins with
--
-- Returns 1 if this call ended a stored session, else 0. One that was never stored has nothing that
-- others must tidy up: it leaves a tombstone and no event.

local id, ttl, idle, token_prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept_ms = math.ceil(ttl / 1000)

local last_activity = redis.call('HGET', KEYS[1], 'last_activity')
if last_activity and idle > 0 and last_activity + idle > now then
  return 0
end

redis.call('SET', KEYS[2], '1', 'PX', kept_ms)
if not last_activity then
  return 0
end

local adopted = redis.call('HGET', KEYS[1], 'adopted_token')
if adopted then
  redis.call('SET', token_prefix .. adopted, '1', 'PX', kept_ms)
end
redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], id)
redis.call('ZADD', KEYS[6], now, id)
return 1
