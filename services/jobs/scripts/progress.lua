-- How far the recorded attempt is; it never falls.
-- ARGV: job, attempt, progress, message, patience (ms)
-- Answers {"changed" | "unchanged" | "refused", record}.
local job, attempt, progress, message, patience = unpack(ARGV)
local status, recorded, before, said = unpack(
  redis.call('HMGET', job_key(job), 'status', 'attempt', 'progress', 'message'))
if status ~= 'running' or tonumber(attempt) ~= tonumber(recorded) then
  return { 'refused', record(job) }
end
watch(job, patience)
redis.call('HDEL', job_key(job), 'suspicions')
local same = tonumber(progress) == tonumber(before) and message == (said or '')
if same or tonumber(progress) < tonumber(before) then return { 'unchanged', record(job) } end
redis.call('HSET', job_key(job), 'progress', progress, 'message', message)
return { 'changed', record(job) }
