-- The oldest messages that must yet reach JetStream.
-- ARGV: how many at most
-- Answers {how many wait in all, id, message, id, message, ...}.
local answer = { redis.call('ZCARD', OUTBOX) }
for _, id in ipairs(redis.call('ZRANGE', OUTBOX, 0, ARGV[1] - 1)) do
  table.insert(answer, id)
  table.insert(answer, redis.call('HGET', MESSAGES, id))
end
return answer
