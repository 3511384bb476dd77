-- May this attempt run? The first one starts the job; a later one supersedes it and starts over.
-- ARGV: job, attempt, engine, engine version, patience (ms)
-- Answers {"started" | "restarted" | "running" | "refused", record}; "running": claimed before.
local job, attempt, engine, version, patience = unpack(ARGV)
local status, recorded = unpack(redis.call('HMGET', job_key(job), 'status', 'attempt'))
if not ACTIVE[status] or tonumber(attempt) < tonumber(recorded) then
  return { 'refused', record(job) }
end
watch(job, patience)
redis.call('HDEL', job_key(job), 'suspicions', 'handed_back')
if status == 'running' and tonumber(attempt) == tonumber(recorded) then
  return { 'running', record(job) }
end
redis.call('HSET', job_key(job), 'attempt', attempt, 'engine', engine, 'engine_version', version,
  'progress', 0)
redis.call('HDEL', job_key(job), 'message')
if status == 'running' then return { 'restarted', record(job) } end
enter(job, 'running')
redis.call('HSET', job_key(job), 'started', whole(now()))
return { 'started', record(job) }
