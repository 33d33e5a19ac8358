-- How new messages are stored.
-- The message in a value of :unique, if a new one would be refused for it now.
local function holder_in(value, now)
    local fine, id, taken_until = pcall(cmsgpack.unpack, value or '')
    if not fine or type(id) ~= 'string' or type(taken_until) ~= 'number' then return nil end
    return (taken_until > now or call('HEXISTS', MSG, id) == 1) and id or nil
end

-- Let these ids of later steps be known, unless they are already.
local function plan(ids, now)
    for _, id in ipairs(ids) do
        if call('HEXISTS', MSG, id) == 0 and call('HEXISTS', RES, id) == 0 then
            call('ZADD', P .. ':planned', now + 604800, id) -- DEAD_TTL of message.py
        end
    end
end

-- Store at most a thousand new messages, items[first] to items[last]; new[k] becomes 1 or 0.
local function place_some(items, first, last, now, new)
    local ids = {}
    for at = first, last do ids[#ids + 1] = items[at][1] end
    local ended, waiting = call('HMGET', RES, unpack(ids)), call('HMGET', MSG, unpack(ids))
    local seq = call('INCRBY', SEQ, #ids) - #ids
    local values, etas, ranks, seen, gated, claims, later = {}, {}, {}, {}, {}, {}, {}
    for at = first, last do
        local item = items[at]
        local id, queue, eta, limits, unique = item[1], item[2], item[4], item[6], item[7]
        local holder = unique and (claims[unique[1]] or holder_in(call('HGET', P .. ':unique', unique[1]), now))
        new[at] = 0
        if not ended[at - first + 1] and not waiting[at - first + 1] and not seen[id] and (not holder or holder == id) then
            seq = seq + 1
            seen[id] = true
            new[at] = 1
            values[#values + 1] = id
            values[#values + 1] = '\153' .. cmsgpack.pack(seq) .. item[5]
            if unique then claims[unique[1]] = id end
            if item[8] then later[#later + 1] = item[8] end
            if limits then gated[queue] = { limits, math.max(eta or now, now, gated[queue] and gated[queue][2] or now) } end
            if eta and eta > now then
                etas[#etas + 1] = eta
                etas[#etas + 1] = id
            else
                local into = ranks[queue]
                if not into then
                    into = {}
                    ranks[queue] = into
                end
                into[#into + 1] = item[3] + seq
                into[#into + 1] = id
            end
        end
    end
    if #values == 0 then return end
    local planned = #later > 0 or call('EXISTS', P .. ':planned') == 1
    if planned then call('ZCARD', P .. ':planned') end
    for queue in pairs(ranks) do look_at(queue) end
    for queue in pairs(gated) do look_at(queue) end
    local earliest = #etas > 0 and tonumber(call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2] or 'inf')
    call('HSET', MSG, unpack(values))
    plan(later, now)
    if planned then call('ZREM', P .. ':planned', unpack(ids)) end
    if next(claims) then
        for at = first, last do
            local unique = items[at][7]
            if new[at] == 1 and unique then
                call('HSET', P .. ':unique', unique[1], cmsgpack.pack(items[at][1], now + unique[2]))
            end
        end
    end
    for queue, each in pairs(gated) do gates().admit(queue, each[1], each[2]) end
    for queue, into in pairs(ranks) do
        call('ZADD', ready(queue), unpack(into))
        if gated[queue] then
            gates().wait(queue, unpack(into))
            gates().announce(queue)
        else
            wake(queue)
        end
    end
    if earliest then
        call('ZADD', DELAYED, unpack(etas))
        local least = earliest
        for at = 1, #etas, 2 do least = math.min(least, etas[at]) end
        if least < earliest then ring('') end
    end
end

-- Store new messages; returns for each whether it was new. items: {id, queue, rank, eta or false, tail}, then of those with
-- terms {rate, burst, slots} of the gate or false, {key, seconds} of what is unique or false, and the id of the last step that
-- follows or false; see wire.py.
local function place(items, now)
    local new = {}
    for first = 1, #items, 1000 do place_some(items, first, math.min(first + 999, #items), now, new) end
    return new
end
