-- Parts: names waking gates queueing placing holding workflows ending owners
-- Counts. Reply: {delayed, all messages, dead, {queue, its state, queued, since of the oldest as text or ''}, …}.
-- Each count is O(1); the oldest of a queue is looked for at the head of each of its ten priorities, O(log n).
local reply = { call('ZCARD', DELAYED), call('HLEN', MSG), call('ZCARD', P .. ':ended:dead') }

local function look_into(queue, state)
    local oldest, count = nil, 0
    for _, key in ipairs({ ready(queue), suspects(queue), gates().behind(queue) }) do
        local length = call('ZCARD', key)
        count = count + length
        for level = 0, length > 0 and 9 or -1 do
            local low = level * 281474976710656
            local head = call('ZRANGEBYSCORE', key, low, '(' .. string.format('%.0f', low + 281474976710656), 'LIMIT', 0, 1)
            local value = head[1] and call('HGET', MSG, head[1])
            if value then
                local fine, _, _, _, _, _, since = pcall(cmsgpack.unpack_limit, value, 5, 1)
                if fine and type(since) == 'number' then oldest = math.min(oldest or since, since) end
            end
        end
    end
    reply[#reply + 1] = { queue, state, count, oldest and string.format('%.17g', oldest) or '' }
end

local queues = call('HGETALL', QUEUES)
for at = 1, #queues, 2 do
    -- An inner queue is among them only until nudge.lua has adopted it.
    if not is_inner(queues[at]) then look_into(queues[at], queues[at + 1]) end
end
return reply
