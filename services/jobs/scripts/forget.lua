-- Remembers that a session has ended, and forgets some of its jobs.
-- ARGV: session, how long to remember (ms), how many jobs to forget at most
-- Answers {"active", job} where a job must be cancelled first, {"more"} or {"done"}.
local session, remember, batch = unpack(ARGV)
redis.call('SET', ended_key(session), 1, 'PX', remember)
local active = redis.call('GET', lock_key(session))
if active then return { 'active', active } end
for _, job in ipairs(redis.call('ZRANGE', session_key(session), 0, batch - 1)) do
  for _, status in ipairs(STATES) do redis.call('ZREM', state_key(session, status), job) end
  redis.call('ZREM', session_key(session), job)
  redis.call('DEL', job_key(job))
end
return { redis.call('ZCARD', session_key(session)) > 0 and 'more' or 'done' }
