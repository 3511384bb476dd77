-- Puts the command of a job that waits for a worker into the outbox again, as it is not in the stream any more.
-- ARGV: job, sequence that the command had or "", message id, command, patience (ms)
-- Answers {"queued"} or {"unchanged"} where the job has moved on.
local job, lost, message_id, command, patience = unpack(ARGV)
local status, handed_back, sequence = unpack(
  redis.call('HMGET', job_key(job), 'status', 'handed_back', 'sequence'))
local waits = status == 'pending' or (status == 'running' and handed_back)
if not waits or (sequence or '') ~= lost then return { 'unchanged' } end
enqueue(message_id, command)
watch(job, patience)
return { 'queued' }
