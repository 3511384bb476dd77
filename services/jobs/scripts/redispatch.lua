-- Puts the command of a pending job into the outbox again, as it is not in the stream any more.
-- ARGV: job, sequence that the command had or "", message id, command, patience (ms)
-- Answers {"queued"} or {"unchanged"} where the job has moved on.
local job, lost, message_id, command, patience = unpack(ARGV)
local status, sequence = unpack(redis.call('HMGET', job_key(job), 'status', 'sequence'))
if status ~= 'pending' or (sequence or '') ~= lost then return { 'unchanged' } end
enqueue(message_id, command)
watch(job, patience)
return { 'queued' }
