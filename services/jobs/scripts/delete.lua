-- Forgets a job that has ended.
-- ARGV: job, session, id and text of the message that tells so
-- Answers {"deleted"}, {"active"} or {"missing"}.
local job, session, message_id, message = unpack(ARGV)
local owner, status = unpack(redis.call('HMGET', job_key(job), 'session', 'status'))
if owner ~= session then return { 'missing' } end
if ACTIVE[status] then return { 'active' } end
redis.call('DEL', job_key(job))
redis.call('ZREM', session_key(session), job)
redis.call('ZREM', state_key(session, status), job)
enqueue(message_id, message)
return { 'deleted' }
