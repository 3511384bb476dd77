-- Puts a message into the outbox.
-- ARGV: id, message
enqueue(ARGV[1], ARGV[2])
