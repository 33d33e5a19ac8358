-- Workflows: groups, whose members are counted, and ids that are known before they are enqueued.
--
--   make ──▶ :group:ID ──fill──▶ bits of :filled:ID ──all──▶ its body is enqueued, and it is gone
--                 └──fail──▶ the body's ids get the failure as their record, errbacks are enqueued; so in its outer group
--
-- The bits are counted anew by each script and not kept as a number: a bitmap that was lost lets no group end early.
-- Made when first needed: each function costs those scripts that end no part of a workflow.
local made_workflows
local function workflows()
    if made_workflows then return made_workflows end
    -- Part: records
    local GROUPS, PLANNED = P .. ':groups', P .. ':planned'
    local function group_key(id) return P .. ':group:' .. id end
    local function filled_key(id) return P .. ':filled:' .. id end
    local groups, told, looked = {}, {}, false

    -- A group that is known, with how many of its slots are filled; false for another. By id, once for each script.
    local function read(id, now)
        if groups[id] ~= nil then return groups[id] end
        local got = call('HMGET', group_key(id), 'size', 'until', 'ttl', 'collects', 'failed', 'ids', 'outer')
        local size, lasts, ttl = tonumber(got[1] or ''), tonumber(got[2] or ''), tonumber(got[3] or '')
        local fine, ids = pcall(cmsgpack.unpack, got[6] or '')
        local outer_fine, outer = pcall(cmsgpack.unpack, got[7] or '')
        groups[id] = size and ttl and fine and outer_fine and lasts and lasts > now and {
            id = id, size = size, ttl = ttl, collects = got[4] == '1', failed = got[5] ~= '', ids = ids, outer = outer,
            count = call('BITCOUNT', filled_key(id)),
        }
        return groups[id]
    end

    -- The messages in a field of a group, as ones that may run from now on.
    local function items_in(group, field, now)
        local fine, items = pcall(cmsgpack.unpack, call('HGET', group_key(group.id), field) or '')
        if not fine or type(items) ~= 'table' then return {} end
        for _, item in ipairs(items) do
            if not item[4] or item[4] <= now then -- its tail begins with lost, suspect, priority, and the time since when
                local after = cmsgpack.unpack_limit(item[5], 1, 3)
                item[5] = string.sub(item[5], 1, 3) .. cmsgpack.pack(now) .. string.sub(item[5], after + 1)
            end
        end
        return items
    end

    -- Keep the record of an id of which there is neither message nor record; whether it was.
    local function keep(id, record, expires)
        if call('HEXISTS', MSG, id) == 1 or call('HSETNX', RES, id, record[2]) == 0 then return false end
        call('ZADD', P .. ':expiry', expires, id)
        if record[1] == 'succeeded' then
            call('LPUSH', P .. ':ended:succeeded', id)
        else
            call('ZADD', P .. ':ended:' .. record[1], call('INCR', SEQ), id)
        end
        call('ZREM', PLANNED, id)
        told[#told + 1] = id
        return true
    end

    -- Make groups that are not known: {id, size, ttl, ids of the body and its last, body, errbacks, outer slot, collects}.
    local function make(new, now)
        for _, each in ipairs(new) do
            local id = each[1]
            if not read(id, now) then
                call('HSET', group_key(id), 'size', each[2], 'until', now + each[3], 'ttl', each[3], 'ids', cmsgpack.pack(each[4]),
                    'body', each[5], 'errbacks', each[6], 'outer', cmsgpack.pack(each[7]), 'collects', each[8], 'failed', '')
                call('DEL', filled_key(id)) -- of one that is past its time
                call('ZADD', GROUPS, now + each[3], id)
                plan(each[4], now)
                groups[id] = nil
            end
        end
    end

    local function finish_group(group, now)
        local body = items_in(group, 'body', now)
        if group.failed then drop_records(group.ids) end
        call('DEL', group_key(group.id), filled_key(group.id))
        call('ZREM', GROUPS, group.id)
        groups[group.id] = false
        place(body, now)
    end

    local fill

    -- The first failure, {state, record}, of a group.
    local function fail(group, failure, now, by)
        group.failed = true
        call('HSET', group_key(group.id), 'failed', by)
        for _, id in ipairs(group.ids) do keep(id, failure, now + group.ttl) end
        place(items_in(group, 'errbacks', now), now)
        if group.outer then fill({ group.outer[1], group.outer[2], failure }, now) end
    end

    local function fails(slot, group) return slot[3] and (slot[4] or not group.collects) end

    -- A member has ended: {group, index, failure or false}; or a call, whose name is then the fourth, lets the group fail.
    function fill(slot, now)
        local group, index = read(slot[1], now), slot[2]
        if not group then return end
        if fails(slot, group) then return group.failed or fail(group, slot[3], now, slot[4] or 'by a member') end
        if index < 0 or index >= group.size or call('SETBIT', filled_key(group.id), index, 1) == 1 then return end
        group.count = group.count + 1
        if group.count == group.size then finish_group(group, now) end
    end

    -- Meet the foreign keys of what an end does to groups before anything has changed; queues: gets those that it uses.
    local function look_at_slot(slot, now, queues)
        local group, field = read(slot[1], now), nil
        if not group then return end
        if not fails(slot, group) then
            group.coming = (group.coming or group.count) + 1
            field = group.coming >= group.size and 'body'
        elseif not group.failed then
            field = 'errbacks'
            if group.outer then look_at_slot({ group.outer[1], group.outer[2], slot[3] }, now, queues) end
        end
        for _, item in ipairs(field and items_in(group, field, now) or {}) do queues[item[2]] = true end
    end

    -- The same for all of beside = {records also kept, groups made, slot filled or false} of an ending.
    local function look(beside, now, queues)
        if not looked then
            call('ZCARD', PLANNED)
            call('ZCARD', GROUPS)
            local _ = tonumber(call('GET', SEQ) or '0') or call('INCR', SEQ)
            for _, state in ipairs({ 'failed', 'cancelled', 'expired', 'dead' }) do call('ZCARD', P .. ':ended:' .. state) end
            looked = true
        end
        for _, each in ipairs(beside[2]) do
            read(each[1], now)
            call('STRLEN', filled_key(each[1]))
        end
        if beside[3] then look_at_slot(beside[3], now, queues) end
    end

    -- Those that have ended without having been enqueued, since the last time.
    local function ended_ahead()
        local ids = told
        told = {}
        return ids
    end

    made_workflows = {
        GROUPS = GROUPS, group_key = group_key, filled_key = filled_key, read = read, keep = keep, make = make, fill = fill,
        look = look, ended_ahead = ended_ahead,
    }
    return made_workflows
end
