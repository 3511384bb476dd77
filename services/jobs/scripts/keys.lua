-- Every key of the jobs service, and what it holds. This file is loaded in front of each script;
-- no key is named anywhere else. Times are microseconds since 1970 by Redis' clock unless said
-- otherwise. Keys are made from arguments, so Redis must be one server (with replicas or without),
-- not a cluster.
--
-- jobs:job:<job>                hash    the record:
--     session                           whose job it is
--     type, spec                        "skeleton", "skinning" or "merge"; the JobSpec message
--     status                            "pending", "running", "completed", "failed", "cancelled"
--     progress, message                 0 to 100; what it is doing, for people
--     attempt                           delivery count of the attempt that may change it; 0: none
--     engine, engine_version            of that attempt
--     sequence                          where its command is in the JOBS stream; absent: unknown
--     handed_back                       1: its worker stopped, and no other has claimed it yet
--     suspicions                        how often it was found silent too long since it last spoke
--     created, started, ended           when; the latter two absent until then
--     result                            completed: the JobSucceeded message
--     error, error_code                 failed: why
-- jobs:session:<session>        zset    all jobs of the session, by time of creation
-- jobs:session:<session>:<status>  zset  those in that state, by time of creation
-- jobs:lock:<session>           string  the session's active job: pending or running, at most one
-- jobs:ended:<session>          string  the session has ended; expires long after
-- jobs:outbox                   zset    ids of messages that must yet reach JetStream, oldest first
-- jobs:outbox:messages          hash    those messages, by id
-- jobs:watched                  zset    active jobs, by when they are suspect of being lost

local OUTBOX = 'jobs:outbox'
local MESSAGES = 'jobs:outbox:messages'
local WATCHED = 'jobs:watched'

local function job_key(job) return 'jobs:job:' .. job end
local function session_key(session) return 'jobs:session:' .. session end
local function state_key(session, status) return 'jobs:session:' .. session .. ':' .. status end
local function lock_key(session) return 'jobs:lock:' .. session end
local function ended_key(session) return 'jobs:ended:' .. session end

local ACTIVE = { pending = true, running = true }
local STATES = { 'pending', 'running', 'completed', 'failed', 'cancelled' }

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Lua would write a number of this size as 1.76e+15.
local function whole(number) return string.format('%.0f', number) end

-- The record as a flat list of fields and values; empty where there is none.
local function record(job) return redis.call('HGETALL', job_key(job)) end

local function field(job, name) return redis.call('HGET', job_key(job), name) end

local function enqueue(id, message)
  redis.call('ZADD', OUTBOX, 'NX', whole(now()), id)
  redis.call('HSET', MESSAGES, id, message)
end

local function unqueue(id)
  redis.call('ZREM', OUTBOX, id)
  redis.call('HDEL', MESSAGES, id)
end

-- Suspects the job once it has been silent for that many milliseconds.
local function watch(job, patience)
  redis.call('ZADD', WATCHED, whole(now() + tonumber(patience) * 1000), job)
end

local function enter(job, status)
  local session, from, created = unpack(
    redis.call('HMGET', job_key(job), 'session', 'status', 'created'))
  redis.call('ZREM', state_key(session, from), job)
  redis.call('ZADD', state_key(session, status), created, job)
  redis.call('HSET', job_key(job), 'status', status)
end
