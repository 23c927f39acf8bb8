-- wrk: POST tools/call of `payload(size)`. PROTOCOL=legacy|modern, SIZE=bytes. The last line of the output is JSON.
local size = os.getenv("SIZE") or "64"
local call = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"payload","arguments":{"size":' .. size .. '}'
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["accept"] = "application/json, text/event-stream"
if os.getenv("PROTOCOL") == "modern" then
  wrk.headers["mcp-protocol-version"] = "2026-07-28"
  wrk.headers["mcp-method"] = "tools/call"
  wrk.headers["mcp-name"] = "payload"
  call = call .. ',"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    .. '"io.modelcontextprotocol/clientInfo":{"name":"wrk","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}'
else
  wrk.headers["mcp-protocol-version"] = "2025-11-25"
end
wrk.body = call .. "}}"

-- An answer is right if it is long enough and no error: to look at each byte would make wrk the bottleneck.
wrong_total = 0
local least = tonumber(size)
function response(status, headers, body)
  if status ~= 200 or #body < least or string.find(string.sub(body, 1, 120), '"error"', 1, true) then
    wrong_total = wrong_total + 1
    if wrong_total == 1 then io.stderr:write(status .. " " .. string.sub(body, 1, 300) .. "\n") end
  end
end

local threads = {}
function setup(thread) table.insert(threads, thread) end
function done(summary, latency, requests)
  local bad = 0
  for _, thread in ipairs(threads) do bad = bad + (thread:get("wrong_total") or 0) end
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"p50":%.3f,"p99":%.3f,"max":%.3f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    latency.max / 1000, errors.connect + errors.read + errors.write + errors.status + errors.timeout + bad))
end
