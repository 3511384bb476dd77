-- ARGV: session
-- Answers how many jobs are pending, running, completed, failed and cancelled, in this order.
local answer = {}
for _, status in ipairs(STATES) do
  table.insert(answer, redis.call('ZCARD', state_key(ARGV[1], status)))
end
return answer
