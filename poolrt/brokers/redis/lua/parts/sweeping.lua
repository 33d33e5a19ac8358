-- What is left behind and nobody needs, found by samples, so that it costs the same for any number.
-- Unique keys whose message has ended and whose time is over; more at once while many of a sample are.
local function sweep_unique(now, limit)
    for _ = 1, 10 do
        local some, free = call('HRANDFIELD', UNIQUE, limit, 'WITHVALUES'), {}
        for at = 1, #some, 2 do
            if not holder_in(some[at + 1], now) then free[#free + 1] = some[at] end
        end
        if #free > 0 then call('HDEL', UNIQUE, unpack(free)) end
        if #free * 4 < limit then return end
    end
end

-- Groups that are past their time, and planned ids that never came.
local function sweep_workflows(now, limit)
    local past = call('ZRANGEBYSCORE', workflows().GROUPS, '-inf', now, 'LIMIT', 0, limit)
    for _, id in ipairs(past) do call('DEL', workflows().group_key(id), workflows().filled_key(id)) end
    if #past > 0 then call('ZREM', workflows().GROUPS, unpack(past)) end
    past = call('ZRANGEBYSCORE', PLANNED, '-inf', now, 'LIMIT', 0, limit)
    if #past > 0 then call('ZREM', PLANNED, unpack(past)) end
end

-- Slots of what is not held any more: an older poolrt puts back and ends without giving them back, and keys get lost.
-- Then the count of each gate of a sample is made right, and the gate deleted if it was not used for long.
local function recount_slots(limit, time)
    local counts, stale, all = {}, {}, call('HGETALL', SLOTS)
    for at = 1, #all, 2 do
        local message = parse(call('HGET', MSG, all[at]))
        if message and state_of(all[at], message) == 'reserved' then
            counts[all[at + 1]] = (counts[all[at + 1]] or 0) + 1
        else
            stale[#stale + 1] = all[at]
        end
    end
    for at = 1, #stale do call('HDEL', SLOTS, stale[at]) end
    local some = call('HRANDFIELD', gates().GATES, limit, 'WITHVALUES')
    for at = 1, #some, 2 do
        local key, gate, idle = some[at], gates().parse_gate(some[at + 1]), true
        for _, queue in ipairs(gate and gate.queues or {}) do
            local inner = queue .. '\0' .. key
            idle = idle and not gates().head(inner)
            local opens = tonumber(call('ZSCORE', gates().OPENS, inner) or '')
            if opens and (gate.rate <= 0 or opens > time + 1 / gate.rate + 1) then
                call('ZREM', gates().OPENS, inner) -- the server's clock was put back
                gates().announce(inner)
            end
        end
        local busy = counts[key] or 0
        if not gate or (idle and busy == 0 and math.max(gate.keep, gate.tat) < time) then
            call('HDEL', gates().GATES, key)
        elseif gate.busy ~= busy then
            gate.busy = busy
            gates().write(key, gate)
            for queue in pairs(gates().refresh_all(key, gate)) do wake(queue) end
        end
    end
end

-- What an older poolrt has taken out of an inner queue.
local function sweep_behind()
    for _, queue in ipairs(call('HKEYS', QUEUES)) do
        for _, id in ipairs(call('ZRANDMEMBER', gates().behind(queue), 100)) do
            local message = parse(call('HGET', MSG, id))
            if not message or state_of(id, message) ~= 'queued' then call('ZREM', gates().behind(queue), id) end
        end
    end
end
