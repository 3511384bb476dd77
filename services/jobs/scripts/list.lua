-- A page of the session's jobs, newest first.
-- ARGV: session, status or "" for all, offset, limit
-- Answers {how many there are on all pages, job, record, job, record, ...}.
local session, status, offset, limit = unpack(ARGV)
local key = status == '' and session_key(session) or state_key(session, status)
local answer = { redis.call('ZCARD', key) }
for _, job in ipairs(redis.call('ZREVRANGE', key, offset, offset + limit - 1)) do
  table.insert(answer, job)
  table.insert(answer, record(job))
end
return answer
