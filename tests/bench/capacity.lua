-- wrk's script: the requests of a file, over and over; at the end one line of JSON.
-- Arguments: the file, the method. A line of the file: path, cookie, CSRF token, body or "-".
local requests, sent = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local path, cookie, token, body = line:match("(%S+) (%S+) (%S+) (%S+)")
    local headers = {
      ["Cookie"] = "session_id=" .. cookie,
      ["X-CSRF-Token"] = token,
      ["Content-Type"] = "application/json",
    }
    table.insert(requests, wrk.format(args[2], path, headers, body ~= "-" and body or nil))
  end
end

function request()
  sent = sent + 1
  return requests[(sent - 1) % #requests + 1]
end

-- Times in milliseconds. "refused": answered with 400 or more; "lost": not answered.
function done(summary, latency)
  local errors = summary.errors
  print(string.format('{"requests": %d, "refused": %d, "lost": %d, "p50": %.2f, "p99": %.2f}',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
