-- ARGV: job
-- Answers the record, empty where there is none.
return record(ARGV[1])
