-- Ends an active job for good and frees its session for the next one.
-- ARGV: job, session or "" for any, final status, attempt or "" for any,
--       id and text of a message for the outbox or "" for none, fields and values to record ...
-- Answers {"finished", record}, {"final", record} where it has ended already, {"superseded",
-- record} where another attempt runs, or {"missing"}.
local job, session, status, attempt, message_id, message = unpack(ARGV)
local owner, from, recorded = unpack(
  redis.call('HMGET', job_key(job), 'session', 'status', 'attempt'))
if not owner or (session ~= '' and session ~= owner) then return { 'missing' } end
if not ACTIVE[from] then return { 'final', record(job) } end
if attempt ~= '' and tonumber(attempt) ~= tonumber(recorded) then
  return { 'superseded', record(job) }
end
enter(job, status)
redis.call('HSET', job_key(job), 'ended', whole(now()), unpack(ARGV, 7))
if redis.call('GET', lock_key(owner)) == job then redis.call('DEL', lock_key(owner)) end
redis.call('HDEL', job_key(job), 'message', 'suspicions')
redis.call('ZREM', WATCHED, job)
unqueue(job)
if message_id ~= '' then enqueue(message_id, message) end
return { 'finished', record(job) }
