-- A message has reached JetStream.
-- ARGV: id, job whose command it is or "", its sequence in the stream, patience (ms)
local id, job, sequence, patience = unpack(ARGV)
unqueue(id)
if job ~= '' and ACTIVE[field(job, 'status')] then
  redis.call('HSET', job_key(job), 'sequence', sequence)
  watch(job, patience)
end
