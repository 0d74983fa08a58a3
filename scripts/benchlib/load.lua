-- The load: what wrk sends, and what it reports.
--
-- wrk ... -s load.lua URL -- WORKLOAD RUN HEADERS IDS ASKS
--   WORKLOAD "log" or "ad"
--   RUN      a letter that names this run of wrk
--   HEADERS  a file of header blocks, one a line, \r\n written as a tab
--   IDS      a file of existing ids, one a line
--   ASKS     what stands before the id, such as "id="; of several with commas between each request has one
--
-- Each request takes its id and its header block at random, so no two requests in a row are alike and
-- nothing can be won by remembering the last one. (By remembering the headers of each browser there can:
-- that is what `--browsers` is for.) Each also has a number, no=<run><thread>-<1, 2, 3 ...>,
-- so that one that is missing in the log is found whatever the totals say. There is no response() here:
-- called for every answer it would make wrk, which shares the cores with what it measures, the bottleneck.
-- done() prints one line of JSON; benchlib/wrk.py reads it.

local threads = 0

-- A uuid and its newline. The ids stay one string: every thread of wrk loads them.
local ID_LINE = 37

function setup(thread)
    threads = threads + 1
    thread:set("number", threads)
end

local function lines(path)
    local all = {}
    for line in io.lines(path) do
        all[#all + 1] = line
    end
    return all
end

function init(arguments)
    math.randomseed(os.time() * 1000 + number)
    random = math.random
    prefixes = {}
    for ask in arguments[5]:gmatch("[^,]+") do
        prefixes[#prefixes + 1] = "GET /" .. arguments[1] .. "?" .. ask
    end
    mark = "&no=" .. arguments[2] .. number .. "-"
    sent = 0
    ids = assert(io.open(arguments[4])):read("*a")
    count = #ids / ID_LINE
    blocks = lines(arguments[3])
    local host = "Host: " .. wrk.host .. ":" .. wrk.port .. "\r\n"
    local extra = arguments[1] == "log" and "&event=view" or ""
    for i, block in ipairs(blocks) do
        blocks[i] = extra .. " HTTP/1.1\r\n" .. host .. block:gsub("\t", "\r\n") .. "\r\n\r\n"
    end
end

function request()
    sent = sent + 1
    local at = (random(count) - 1) * ID_LINE
    return prefixes[random(#prefixes)] .. ids:sub(at + 1, at + ID_LINE - 1) .. mark .. sent .. blocks[random(#blocks)]
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'bench-result {"requests":%d,"duration_us":%d,"bytes":%d,"errors":{"connect":%d,"read":%d,' ..
        '"write":%d,"status":%d,"timeout":%d},"latency_us":{"p50":%d,"p90":%d,"p99":%d,"max":%d}}\n',
        summary.requests, summary.duration, summary.bytes, errors.connect, errors.read,
        errors.write, errors.status, errors.timeout, latency:percentile(50), latency:percentile(90),
        latency:percentile(99), latency.max))
end
