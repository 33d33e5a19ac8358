-- What happens when deliveries end.
-- endings[k] = {state, expires, record, follow-ups or false, an ending instead if it was cancelled or false, what it does to
-- workflows (see workflows.lua) or nil} belongs to ids[k].

-- Meet the foreign keys of records and follow-ups before anything has changed: see names.lua.
local function look_at_endings(endings, now)
    call('HLEN', MSG)
    call('HLEN', RES)
    call('ZCARD', P .. ':expiry')
    local seen, following, instead = { [''] = true }, {}, nil
    for at = 1, #endings do
        local state = endings[at][1]
        if not seen[state] then call(state == 'succeeded' and 'LLEN' or 'ZCARD', P .. ':ended:' .. state) end
        seen[state] = true
        for _, item in ipairs(endings[at][4] or {}) do following[item[2]] = true end
        if endings[at][5] then
            instead = instead or {}
            instead[#instead + 1] = endings[at][5]
        end
        if endings[at][6] then workflows().look(endings[at][6], now, following) end
    end
    if instead then look_at_endings(instead, now) end
    if not next(following) then return end
    call('ZCARD', DELAYED)
    call('ZCARD', P .. ':planned')
    call('HLEN', P .. ':unique')
    local _ = tonumber(call('GET', SEQ) or '0') or call('INCR', SEQ)
    for queue in pairs(following) do look_at(queue) end
end

-- Keep the records of ended deliveries, of which the first of an id stands; returns their follow-ups, and those endings that
-- do something to workflows.
local function keep_records(ids, endings)
    local passing, succeeded, following, beside = {}, {}, {}, nil
    for at = 1, #endings do
        local id, ending = ids[at], endings[at]
        if id and ending[3] ~= '' and call('HSETNX', RES, id, ending[3]) == 1 then
            passing[#passing + 1] = ending[2]
            passing[#passing + 1] = id
            if ending[1] == 'succeeded' then
                succeeded[#succeeded + 1] = id
            else
                call('ZADD', P .. ':ended:' .. ending[1], call('INCR', SEQ), id)
            end
        end
    end
    if #passing > 0 then call('ZADD', P .. ':expiry', unpack(passing)) end
    if #succeeded > 0 then
        call('LPUSH', P .. ':ended:succeeded', unpack(succeeded))
        call('LTRIM', P .. ':ended:succeeded', 0, 9999)
    end
    for at = 1, #endings do
        for _, item in ipairs(ids[at] and endings[at][4] or {}) do following[#following + 1] = item end
        if ids[at] and endings[at][6] then
            beside = beside or {}
            beside[#beside + 1] = endings[at]
        end
    end
    return following, beside
end

-- Tell those who wait for these ids, in the same step that ended them.
local function tell_waiters(ids)
    if #ids == 0 or call('EXISTS', WAITERS) == 0 then return end
    for _, id in ipairs(ids) do
        local waiting = call('HGET', WAITERS, id)
        if waiting then
            for key in string.gmatch(waiting, '%S+') do
                call('RPUSH', key, id)
                call('EXPIRE', key, 60)
            end
            call('HDEL', WAITERS, id)
        end
    end
end

-- Drop the messages of live, keep the records of ids, place their follow-ups and do what else they do to workflows.
local function finish(live, ids, endings, now)
    local following, beside = keep_records(ids, endings)
    call('HDEL', MSG, unpack(live))
    for _, ending in ipairs(beside or {}) do
        for _, each in ipairs(ending[6][1]) do workflows().keep(each[1], each[2], ending[2]) end
        workflows().make(ending[6][2], now)
    end
    if #following > 0 then place(following, now) end
    if not beside then return end
    for _, ending in ipairs(beside) do
        if ending[6][3] then workflows().fill(ending[6][3], now) end
    end
    tell_waiters(workflows().ended_ahead())
end

-- What goes with a hold: a word left for it, and a slot of a gate. Returns a function that wakes who may take what this
-- let through and nobody has taken by then; nil if there is nothing.
local function end_holds(ids)
    if #ids == 0 or call('EXISTS', CANCEL, SLOTS) == 0 then return nil end
    call('SREM', CANCEL, unpack(ids))
    local keys, some = call('HMGET', SLOTS, unpack(ids)), false
    for at = 1, #ids do some = some or keys[at] end
    if not some then return nil end
    local opened = gates().free(ids, keys)
    return next(opened) and function()
        for queue in pairs(opened) do
            if gates().is_open(queue) then wake(queue) end
        end
    end
end

-- End deliveries of what is held (a key); how many were not there, and what end_holds returns. groups =
-- {{n, first, last}, …}; the last #endings of all these places have more to do than to end: see finish.
local function settle(held, groups, endings, now)
    local ids, total, stale = {}, 0, 0
    if #endings > 0 then look_at_endings(endings, now) end
    for _, group in ipairs(groups) do
        local gone
        total, gone = take_out(held, group, ids, total)
        stale = stale + gone
    end
    if stale == total then return stale end
    local live = ids
    if stale > 0 then
        live = {}
        for at = 1, total do
            if ids[at] then live[#live + 1] = ids[at] end
        end
    end
    local spoken_of = call('EXISTS', WAITERS, CANCEL, SLOTS) > 0 -- seldom; then each is looked at
    if #endings == 0 then
        call('HDEL', MSG, unpack(live))
        if spoken_of then tell_waiters(live) end
    else
        local ended, plain = {}, total - #endings
        for at = 1, #endings do -- what goes on, and was to be cancelled, ends here
            local instead = spoken_of and ids[plain + at] and endings[at][5]
            if instead and call('SISMEMBER', CANCEL, ids[plain + at]) == 1 then endings[at] = instead end
        end
        for at = 1, total do
            local ending = endings[at - plain]
            if ids[at] and (not ending or ending[1] ~= '' or not ending[4]) then ended[#ended + 1] = ids[at] end
        end
        finish(live, { unpack(ids, plain + 1, total) }, endings, now)
        if spoken_of then tell_waiters(ended) end
    end
    return stale, spoken_of and end_holds(live) or nil
end
