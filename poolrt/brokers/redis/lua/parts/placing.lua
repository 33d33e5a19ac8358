-- How new messages are stored.
-- Store at most a thousand new messages, items[first] to items[last]; new[k] becomes 1 or 0.
local function place_some(items, first, last, now, new)
    local ids = {}
    for at = first, last do ids[#ids + 1] = items[at][1] end
    local ended, waiting = call('HMGET', RES, unpack(ids)), call('HMGET', MSG, unpack(ids))
    local seq = call('INCRBY', SEQ, #ids) - #ids
    local values, etas, ranks, seen = {}, {}, {}, {}
    for at = first, last do
        local item = items[at]
        local id, queue, eta = item[1], item[2], item[4]
        new[at] = 0
        if not ended[at - first + 1] and not waiting[at - first + 1] and not seen[id] then
            seq = seq + 1
            seen[id] = true
            new[at] = 1
            values[#values + 1] = id
            values[#values + 1] = '\153' .. cmsgpack.pack(seq) .. item[5]
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
    for queue in pairs(ranks) do look_at(queue) end
    local earliest = #etas > 0 and tonumber(call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2] or 'inf')
    call('HSET', MSG, unpack(values))
    for queue, into in pairs(ranks) do
        call('ZADD', ready(queue), unpack(into))
        wake(queue)
    end
    if earliest then
        call('ZADD', DELAYED, unpack(etas))
        local least = earliest
        for at = 1, #etas, 2 do least = math.min(least, etas[at]) end
        if least < earliest then ring('') end
    end
end

-- Store new messages; returns for each whether it was new. items: {id, queue, rank, eta or false, tail}, see wire.py.
local function place(items, now)
    local new = {}
    for first = 1, #items, 1000 do place_some(items, first, math.min(first + 999, #items), now, new) end
    return new
end
