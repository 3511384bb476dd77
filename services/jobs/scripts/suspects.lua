-- The active jobs that have been silent too long; they are suspected again after the patience.
-- ARGV: how many at most, patience (ms)
-- Answers {how many jobs are active in all, job, job, ...}.
local answer = { redis.call('ZCARD', WATCHED) }
local silent = redis.call('ZRANGEBYSCORE', WATCHED, '-inf', whole(now()), 'LIMIT', 0, ARGV[1])
for _, job in ipairs(silent) do
  if ACTIVE[field(job, 'status')] then
    watch(job, ARGV[2])
    redis.call('HINCRBY', job_key(job), 'suspicions', 1)
    table.insert(answer, job)
  else
    redis.call('ZREM', WATCHED, job)
  end
end
return answer
