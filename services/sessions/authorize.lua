-- Decides one request: finds its session, checks the CSRF token against it, charges the rate limits
-- and notes the activity; all of it or, where it refuses, nothing.
--
-- Keys
--  1  sessions:activity              zset    id of every stored session -> last activity, µs
--  2  sessions:rate:new:<address>    zset    log of the new sessions of one client address
--  3  sessions:ended:<id>            string  there if the session that the token was issued for
--                                            has ended
--  4  sessions:ended-token:<digest>  string  there if a session that adopted the token has ended
-- of the session whose cookie was shown (5 to 8), and of the one that may be made (9 to 12):
--     sessions:record:<id>           hash    created_at, last_activity: µs; adopted_token: SHA-256
--                                            of the token that made the session, if one did
--     sessions:ended:<id>            string  tombstone: the session has ended; kept for the TTL
--     sessions:rate:api:<id>         zset    log of the session's API requests
--     sessions:rate:uploads:<id>     zset    log of the session's uploads
-- A log has one member per request, its score and name the time in µs, and is gone an idle window
-- later. Times are Redis's own, in µs since the epoch.
--
-- Arguments
--  1  id of the shown cookie; empty: none was shown
--  2  its issue time, Unix seconds
--  3  id of the session to make if none is shown or it has ended; empty: make none
--  4  the token: unneeded, missing, invalid, bound (to the shown session), foreign (genuine, but
--     issued for another session), alone (genuine and without a cookie)
--  5  its SHA-256
--  6  its issue time, Unix seconds
--  7  look (leave no trace), touch (note the activity of a stored session), store (make the record)
--  8  TTL of a session, µs
--  9  window of the limits, µs
-- 10  limit of API requests
-- 11  limit of uploads; 0: no upload
-- 12  limit of new sessions
-- 13  1: charge the limits; 0: only look at them
--
-- Returns {outcome, session id, now, 1 if the record was made, then for each limit that applies its
-- name, requests allowed, requests remaining, time of the next free place}. The outcome is ok,
-- ended, token_missing, token_invalid or limited; after "ended" only now follows.

local shown_id, shown_issued, fresh_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local token, digest, token_issued = ARGV[4], ARGV[5], tonumber(ARGV[6])
local trace = ARGV[7]
local ttl, window = tonumber(ARGV[8]), tonumber(ARGV[9])
local api_limit, upload_limit, new_limit = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local charged = ARGV[13] == '1'

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function keys_from(first)
  return {
    record = KEYS[first],
    ended = KEYS[first + 1],
    api = KEYS[first + 2],
    uploads = KEYS[first + 3],
  }
end

-- Once stored the record decides; until then the cookie is good for the TTL after its issue.
local function shown_is_live(keys)
  local last_activity = redis.call('HGET', keys.record, 'last_activity')
  if last_activity then
    return last_activity + ttl > now
  end
  return redis.call('EXISTS', keys.ended) == 0 and shown_issued * 1000000 + ttl > now
end

local id, keys, is_new
if shown_id ~= '' and shown_is_live(keys_from(5)) then
  id, keys, is_new = shown_id, keys_from(5), false
elseif fresh_id ~= '' then
  id, keys, is_new = fresh_id, keys_from(9), true
else
  return { 'ended', '', now }
end

-- The digests are of tokens whose MAC was verified in constant time before: nobody can try them
-- digit by digit here.
local function token_refusal()
  if token == 'missing' then
    return 'token_missing'
  elseif token == 'invalid' then
    return 'token_invalid'
  elseif token == 'foreign' and redis.call('HGET', keys.record, 'adopted_token') ~= digest then
    return 'token_invalid'
  elseif token == 'alone' then
    local too_old = token_issued * 1000000 + ttl <= now
    if too_old or redis.call('EXISTS', KEYS[3], KEYS[4]) > 0 then
      return 'token_invalid'
    end
  end
  return nil
end

local limits = { { name = 'api', log = keys.api, limit = api_limit } }
if upload_limit > 0 then
  table.insert(limits, { name = 'uploads', log = keys.uploads, limit = upload_limit })
end
if is_new then
  table.insert(limits, { name = 'new_sessions', log = KEYS[2], limit = new_limit })
end

local limited = false
for _, limit in ipairs(limits) do
  redis.call('ZREMRANGEBYSCORE', limit.log, '-inf', now - window)
  limit.count = redis.call('ZCARD', limit.log)
  limited = limited or limit.count >= limit.limit
end

local outcome = token_refusal() or (charged and limited and 'limited') or 'ok'
local made = 0

if outcome == 'ok' then
  if charged then
    for _, limit in ipairs(limits) do
      local at = now
      while redis.call('ZADD', limit.log, 'NX', at, string.format('%.0f', at)) == 0 do
        at = at + 1
      end
      redis.call('PEXPIRE', limit.log, math.ceil(window / 1000))
      limit.count = limit.count + 1
    end
  end
  if trace == 'store' then
    made = redis.call('HSETNX', keys.record, 'created_at', now)
    if made == 1 and token == 'alone' then
      redis.call('HSET', keys.record, 'adopted_token', digest)
    end
  end
  if trace ~= 'look' and redis.call('EXISTS', keys.record) == 1 then
    redis.call('HSET', keys.record, 'last_activity', now)
    redis.call('ZADD', KEYS[1], now, id)
  end
end

local answer = { outcome, id, now, made }
for _, limit in ipairs(limits) do
  -- The entry whose going makes the count fall below what it is, and below the limit.
  local place = math.max(limit.count - limit.limit, 0)
  local entry = redis.call('ZRANGE', limit.log, place, place, 'WITHSCORES')
  table.insert(answer, limit.name)
  table.insert(answer, limit.limit)
  table.insert(answer, math.max(limit.limit - limit.count, 0))
  table.insert(answer, (entry[2] or now) + window)
end
return answer
