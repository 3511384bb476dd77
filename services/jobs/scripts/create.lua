-- Accepts a job: at most one active job a session, and its command waits in the outbox.
-- ARGV: job, session, type, spec, command, patience (ms)
-- Answers {"created", record}, {"busy", active job} or {"session_ended"}.
local job, session, type, spec, command, patience = unpack(ARGV)

if redis.call('EXISTS', ended_key(session)) == 1 then return { 'session_ended' } end
local active = redis.call('GET', lock_key(session))
if active then return { 'busy', active } end

local created = now()
local newest = redis.call('ZREVRANGE', session_key(session), 0, 0, 'WITHSCORES')
if newest[2] and tonumber(newest[2]) >= created then created = tonumber(newest[2]) + 1 end

redis.call('HSET', job_key(job), 'session', session, 'type', type, 'spec', spec,
  'status', 'pending', 'progress', 0, 'attempt', 0, 'created', whole(created))
redis.call('ZADD', session_key(session), whole(created), job)
redis.call('ZADD', state_key(session, 'pending'), whole(created), job)
redis.call('SET', lock_key(session), job)
enqueue(job, command)
watch(job, patience)
return { 'created', record(job) }
