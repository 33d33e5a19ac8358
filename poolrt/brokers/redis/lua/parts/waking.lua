-- Who is told that there is something to do.
-- Of a queue that nobody has heard of yet, those are told who wait on all queues.
local function introduce(queue)
    call('HSET', QUEUES, queue, '1')
    if call('LLEN', P .. ':wake') == 0 then call('RPUSH', P .. ':wake', '1') end
end

-- One token wakes one idle child; one that nobody has taken yet is enough.
local function wake(queue)
    local state, key = call('HGET', QUEUES, queue), P .. ':wake:' .. queue
    if not state then introduce(queue) end
    if state ~= '0' and call('LLEN', key) == 0 then call('RPUSH', key, '1') end
end

local function ring(incarnation) call('PUBLISH', P .. ':bell', incarnation) end
