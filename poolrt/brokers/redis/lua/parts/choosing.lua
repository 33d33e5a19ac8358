-- What a child is given when there is more to look at than one queue's head: several queues, suspects, tasks to leave.
-- The next to run of all queues: {id, score, queue}, in order, at most count; of the suspects only those before which
-- nothing else is to run.
local function next_of(names, count)
    local found = {}
    for _, queue in ipairs(names) do
        local range = call('ZRANGE', ready(queue), 0, count - 1, 'WITHSCORES')
        for at = 1, #range, 2 do found[#found + 1] = { range[at], tonumber(range[at + 1]), queue } end
    end
    if #names > 1 then table.sort(found, function(a, b) return a[2] < b[2] end) end
    return found
end

local function first_suspect(names)
    local first = nil
    for _, queue in ipairs(names) do
        local range = call('ZRANGE', suspects(queue), 0, 0, 'WITHSCORES')
        if range[1] and (not first or tonumber(range[2]) < first[2]) then
            first = { range[1], tonumber(range[2]), queue }
        end
    end
    return first
end

-- The same without tasks of the avoided names; it reads past them, for the rare node that shares a store with another app.
local function next_allowed(names, count, avoided)
    local found = {}
    for _, queue in ipairs(names) do
        local at, taken = 0, 0
        while taken < count do
            local range = call('ZRANGE', ready(queue), at, at + 99, 'WITHSCORES')
            if #range == 0 then break end
            for k = 1, #range, 2 do
                local value = call('HGET', MSG, range[k])
                local fine, _, _, _, _, _, _, _, task = pcall(cmsgpack.unpack_limit, value or '', 7, 1)
                if taken < count and not (fine and avoided[task]) then
                    found[#found + 1] = { range[k], tonumber(range[k + 1]), queue }
                    taken = taken + 1
                end
            end
            at = at + 100
        end
    end
    table.sort(found, function(a, b) return a[2] < b[2] end)
    return found
end

-- Take up to count messages out of these queues: their ids, in the order to run them.
local function choose(names, count, avoided, suspected, held)
    local found = avoided and next_allowed(names, count, avoided) or next_of(names, count)
    local suspect, ids = suspected and first_suspect(names) or nil, {}
    for _, each in ipairs(found) do
        if #ids >= count or (suspect and each[2] > suspect[2]) then break end
        call('ZREM', ready(each[3]), each[1])
        ids[#ids + 1] = each[1]
    end
    if suspect and #ids == 0 and call('EXISTS', held) == 0 then
        call('ZREM', suspects(suspect[3]), suspect[1])
        ids[1] = suspect[1]
    end
    return ids
end
