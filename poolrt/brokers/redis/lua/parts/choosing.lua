-- What a child is given when there is more to look at than one queue's head: several queues, gates, suspects, tasks to leave.
-- Take up to count messages out of these queues: their ids, in the order to run them, and 1 if there are more, or 0.
local function choose(queues, count, avoided, suspected, held, gated, strict, time)
    -- Made only when they are needed: see scripts.py.
    -- A source is a queue, or an inner one behind its gate: {queue, rank, most}, and what gates.lua adds: no score after `last`
    -- is of use. What has a lower rank goes first, whatever its score.
    local function sources_of(queues, count, gated, strict, time, met)
        local sources = {}
        for place, queue in ipairs(queues) do
            local rank = strict and place or 0
            sources[#sources + 1] = { queue = queue, rank = rank, most = count }
            if gated then gates().add_sources(sources, queue, rank, count, time, met) end
        end
        return sources
    end

    local function before(a, b)
        if a[3].rank ~= b[3].rank then return a[3].rank < b[3].rank end
        return a[2] < b[2]
    end

    -- The next to run of all sources: {id, score, source}, in order.
    local function next_of(sources, count)
        local found = {}
        for _, source in ipairs(sources) do
            if #found >= count and source.rank > found[#found][3].rank then break end
            local key, most, last = ready(source.queue), source.most, source.last
            local range = last and call('ZRANGEBYSCORE', key, '-inf', last, 'WITHSCORES', 'LIMIT', 0, most)
                or call('ZRANGE', key, 0, most - 1, 'WITHSCORES')
            for at = 1, #range, 2 do found[#found + 1] = { range[at], tonumber(range[at + 1]), source } end
        end
        if #sources > 1 then table.sort(found, before) end
        return found
    end

    -- Of the suspects only the one before which nothing else is to run.
    local function first_suspect(sources)
        local first = nil
        for _, source in ipairs(sources) do
            local range = call('ZRANGE', suspects(source.queue), 0, 0, 'WITHSCORES')
            local one = range[1] and { range[1], tonumber(range[2]), source }
            if one and (not first or before(one, first)) then first = one end
        end
        return first
    end

    -- The same without tasks of the avoided names; it reads past them, for the rare node that shares a store with another app.
    local function next_allowed(sources, avoided)
        local found = {}
        for _, source in ipairs(sources) do
            local at, taken = 0, 0
            while taken < source.most do
                local range = call('ZRANGE', ready(source.queue), at, at + 99, 'WITHSCORES')
                if #range == 0 then break end
                for k = 1, #range, 2 do
                    local value = call('HGET', MSG, range[k])
                    local fine, _, _, _, _, _, _, _, task = pcall(cmsgpack.unpack_limit, value or '', 7, 1)
                    if taken < source.most and not (fine and avoided[task]) then
                        found[#found + 1] = { range[k], tonumber(range[k + 1]), source }
                        taken = taken + 1
                    end
                end
                at = at + 100
            end
        end
        table.sort(found, before)
        return found
    end

    -- Take up to count messages out of the sources: their ids, in the order to run them.
    local function take_of(sources, count, avoided, look_for_suspects, held)
        local found = avoided and next_allowed(sources, avoided) or next_of(sources, count)
        local suspect, ids = look_for_suspects and first_suspect(sources) or nil, {}
        local function take(each, key)
            call('ZREM', key, each[1])
            if each[3].gate then gates().take(each[3], each[1]) end
            ids[#ids + 1] = each[1]
        end
        for _, each in ipairs(found) do
            if #ids >= count or (suspect and before(suspect, each)) then break end
            if not each[3].gate or each[3].gate.left > 0 then take(each, ready(each[3].queue)) end
        end
        if suspect and #ids == 0 and call('EXISTS', held) == 0 then take(suspect, suspects(suspect[3].queue)) end
        return ids
    end

    local ids, more = {}, 0
    if count > 0 then
        local met = {}
        if gated then time = gates().time_of(time) end
        ids = take_of(sources_of(queues, count, gated, strict, time, met), count, avoided, suspected or gated, held)
        if gated then gates().close(met, time, #ids < count) end
    end
    for _, queue in ipairs(queues) do
        if call('EXISTS', ready(queue)) == 1 or (suspected and call('EXISTS', suspects(queue)) == 1) then more = 1 end
        if gated and gates().is_open(queue) then more = 1 end
    end
    return ids, more
end
