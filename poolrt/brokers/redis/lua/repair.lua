-- Parts: names waking gates queueing placing holding workflows ending owners places sweeping
-- Set aside keys of another type than ours, then queue again what has no place any more; a part of the messages a call.
-- ARGV: 1 to begin or 0 to go on, now. Reply: {whether there is more, {keys renamed}, how many were queued again}.
-- How far it is stands in :mending, so that anybody can go on: see nudge.lua.
-- A start whose registration or owners were in such a key is ended as rescue.lua ends one that died.
despite_full_memory()
local first, now, MENDING = ARGV[1] == '1', tonumber(ARGV[2]), P .. ':mending'
local renamed, queued, barred, expected = {}, 0, {}, {}

local function expect(key, kind)
    local found = call('TYPE', key).ok
    if found == kind or found == 'none' then return true end
    local aside = P .. ':foreign:' .. string.sub(key, #P + 2) .. ':' .. table.concat(call('TIME'), '.')
    call('RENAME', key, aside)
    renamed[#renamed + 1] = aside
    quarantine(aside, 'a key of type ' .. found .. ' where poolrt keeps a ' .. kind)
    return false
end

local function expect_numbers(key)
    local fields, fine = call('HGETALL', key), true
    for at = 1, #fields, 2 do
        if not string.match(fields[at + 1], '^%d+$') then
            quarantine(fields[at] .. ' ' .. fields[at + 1], 'no number in ' .. key)
            call('HDEL', key, fields[at])
            fine = false
        end
    end
    return fine
end

local function expect_queue(queue) -- and that it is known
    if expected[queue] then return end
    expected[queue] = true
    expect(ready(queue), 'zset')
    expect(suspects(queue), 'zset')
    if is_inner(queue) then return expect_queue((gates().parts_of(queue))) end
    expect(gates().behind(queue), 'zset')
    expect(gates().open_of(queue), 'zset')
    expect(P .. ':wake:' .. queue, 'list')
    call('HSETNX', QUEUES, queue, '1')
end

local function expect_plain_keys()
    expect(P .. ':quarantine', 'list')
    expect(P .. ':wake', 'list')
    for _, key in ipairs({ MSG, RES, QUEUES, BEATS, WAITERS, LEAKS, SLOTS, UNIQUE, gates().GATES }) do expect(key, 'hash') end
    for _, key in ipairs({ DELAYED, GONE, gates().OPENS, P .. ':expiry', PLANNED }) do expect(key, 'zset') end
    for _, state in ipairs({ 'failed', 'cancelled', 'expired', 'dead' }) do expect(P .. ':ended:' .. state, 'zset') end
    expect(P .. ':ended:succeeded', 'list')
    expect(CANCEL, 'set')
    expect(SWEPT, 'string')
    if expect(SEQ, 'string') and not string.match(call('GET', SEQ) or '0', '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
        quarantine(call('GET', SEQ), 'the counter of messages is no number')
        call('DEL', SEQ)
    end
    for _, queue in ipairs(call('HKEYS', QUEUES)) do expect_queue(queue) end
    local known = call('HGETALL', gates().GATES)
    for at = 1, #known, 2 do
        local gate = gates().parse_gate(known[at + 1])
        for _, queue in ipairs(gate and gate.queues or {}) do expect_queue(queue .. '\0' .. known[at]) end
    end
end

local function keys_of(kind)
    local cursor, names = '0', {}
    repeat
        local scanned = call('SCAN', cursor, 'MATCH', P .. ':' .. kind .. ':*', 'COUNT', 1000)
        cursor = scanned[1]
        for _, key in ipairs(scanned[2]) do names[#names + 1] = key end
    until cursor == '0'
    return names
end

-- The bits of a bitmap that is lost are known from the records of the members that have succeeded.
local function expect_groups()
    if not expect(workflows().GROUPS, 'zset') then
        for _, key in ipairs(keys_of('group')) do
            local lasts = expect(key, 'hash') and tonumber(call('HGET', key, 'until') or '')
            if lasts then call('ZADD', workflows().GROUPS, lasts, string.sub(key, #workflows().group_key('') + 1)) end
        end
    end
    for _, id in ipairs(call('ZRANGE', workflows().GROUPS, 0, -1)) do
        expect(workflows().group_key(id), 'hash')
        local group = not expect(workflows().filled_key(id), 'string') and workflows().read(id, now)
        for index = 0, group and group.size - 1 or -1 do
            local fine, _, state = pcall(cmsgpack.unpack_limit, call('HGET', RES, id .. '.' .. index) or '', 1, 1)
            if fine and (state == 'succeeded' or (state and group.collects)) then
                call('SETBIT', workflows().filled_key(id), index, 1)
            end
        end
    end
end

local function expect_nodes()
    expect_numbers(BEATS)
    if not expect(NODES, 'hash') then
        for _, inc in ipairs(call('HKEYS', BEATS)) do barred[inc] = true end
    end
    for _, inc in ipairs(call('HKEYS', NODES)) do
        if not expect(owners_of(inc), 'hash') or not expect_numbers(owners_of(inc)) then barred[inc] = true end
        for _, who in ipairs(owners(inc)) do expect(held_by(inc, who), 'hash') end
    end
end

-- The owners that held something under a start whose list of owners is gone.
local function end_barred()
    for _, key in ipairs(keys_of('held')) do
        local inc, who = string.match(key, ':held:(.*)/(.-)$')
        if inc and barred[inc] and expect(key, 'hash') then queued = queued + end_owner(inc, who, {}, now, true) end
    end
    for inc in pairs(barred) do
        expect(owners_of(inc), 'hash')
        bar_start(inc)
    end
end

local function place_again(id, message)
    local fine, _, since = pcall(cmsgpack.unpack_limit, message.rest, 1, 0)
    if fine and type(since) == 'number' and since > now then
        call('ZADD', DELAYED, since, id)
        ring('')
    else
        put_in_queue(id, message)
        announce(message.queue)
    end
    queued = queued + 1
end

expect(MENDING, 'string')
local cursor = first and '0' or call('GET', MENDING)
if not cursor then return { 0, renamed, queued } end
if first then
    expect_plain_keys()
    expect_nodes()
    expect_groups()
    if next(barred) then end_barred() end
end
local held = {}
for _, inc in ipairs(call('HKEYS', NODES)) do
    for _, who in ipairs(owners(inc)) do
        for _, each in ipairs(all_held(held_by(inc, who))) do held[each[3]] = true end
    end
end
local scanned, highest = call('HSCAN', MSG, string.match(cursor, '^%d+$') or '0', 'COUNT', 1000), 0
for at = 1, #scanned[2], 2 do
    local id, message = scanned[2][at], parse(scanned[2][at + 1])
    if message then highest = math.max(highest, message.seq) end
    if message and not held[id] and not call('ZSCORE', DELAYED, id) then
        expect_queue(message.queue)
        if state_of(id, message) ~= 'queued' then
            place_again(id, message)
        elseif is_inner(message.queue) then
            gates().wait(message.queue, score(message), id)
            gates().announce(message.queue)
        end
    elseif not message and not held[id] then
        put_aside(id, 'stored')
    end
end
-- The order of what comes from now on, where the counter was lost.
if highest > tonumber(call('GET', SEQ) or '0') then call('SET', SEQ, string.format('%.0f', highest)) end
if scanned[1] == '0' then
    recount_slots(1000, now)
    call('DEL', MENDING)
else
    call('SET', MENDING, scanned[1])
end
return { scanned[1] == '0' and 0 or 1, renamed, queued }
