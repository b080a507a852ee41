-- For wrk: sends UPLOAD bytes with each request, if that variable is set, and ends with one line of
-- JSON. Latencies are in microseconds; status counts answers of 400 and above.

local upload = tonumber(os.getenv("UPLOAD"))
if upload then
    wrk.method = "POST"
    wrk.body = string.rep("x", upload)
    wrk.headers["Content-Type"] = "application/octet-stream"
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "duration_us": %d, "p50_us": %d, "p90_us": %d, "p99_us": %d, "max_us": %d, ' ..
        '"errors": {"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency.max,
        errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
