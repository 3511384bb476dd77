-- A worker that stops gives its attempt back, claimed or not: a fresh command, with deliveries of its
-- own, is queued. A running job stays so for whoever looks, until another worker starts it over.
-- ARGV: job, attempt, message, message id, command, patience (ms)
-- Answers {"queued" | "unchanged" (handed back before) | "final" | "superseded" | "missing", record}.
local job, attempt, message, message_id, command, patience = unpack(ARGV)
local status, recorded, waiting = unpack(
  redis.call('HMGET', job_key(job), 'status', 'attempt', 'handed_back'))
if not status then return { 'missing' } end
if not ACTIVE[status] then return { 'final', record(job) } end
if tonumber(attempt) < tonumber(recorded) then return { 'superseded', record(job) } end
if waiting then return { 'unchanged', record(job) } end
redis.call('HSET', job_key(job), 'handed_back', 1, 'message', message)
redis.call('HDEL', job_key(job), 'sequence', 'suspicions')
enqueue(message_id, command)
watch(job, patience)
return { 'queued', record(job) }
