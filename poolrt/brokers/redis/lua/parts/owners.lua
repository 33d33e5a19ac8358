-- Nodes, their starts, and what becomes of what an owner held.
local NODES, BEATS, GONE = P .. ':nodes', P .. ':beats', P .. ':gone'

-- The owners of a start that may be heard, as slot.generation.
local function owners(inc)
    local found = {}
    for _, who in ipairs(call('HKEYS', owners_of(inc))) do
        if string.match(who, '^%d+%.%d+$') then found[#found + 1] = who end
    end
    return found
end

-- What goes with the hold of one that was put back ends.
local function end_hold(id)
    local wake_others = end_holds({ id })
    if wake_others then wake_others() end
end

-- Put back what an owner holds, after its verdicts took effect. verdict = {n, i, id, ending} or {n, i, id, false, eta}
local function end_owner(inc, who, verdicts, now, suspect)
    local held, requeued, settled, known = held_by(inc, who), 0, 0, {}
    for _, each in ipairs(all_held(held)) do known[each[3]] = each end
    for _, verdict in ipairs(verdicts) do
        local n, i, id, ending, eta = verdict[1], verdict[2], verdict[3], verdict[4], verdict[5]
        local found = known[id]
        if found and found[1] == n and found[2] == i then
            known[id] = nil
            settled = settled + 1
            if ending then
                local _, wake_others = settle(held, { { n, i, i } }, { ending }, now)
                if wake_others then wake_others() end
            else
                requeued = requeued + 1
                take_one(held, n, i)
                put_back_lost(id, eta)
                end_hold(id)
            end
        end
    end
    local change = suspect and function(message)
        message.lost = message.lost + message.suspect
        message.suspect = 1
    end
    for id in pairs(known) do
        put_back(id, change)
        end_hold(id)
        requeued = requeued + 1
    end
    call('DEL', held)
    return requeued, settled
end

-- Bar every owner of a start for good; what they held was put back.
local function bar_start(inc)
    call('DEL', owners_of(inc))
    call('HDEL', NODES, inc)
    call('HDEL', BEATS, inc)
    call('ZADD', GONE, call('INCR', SEQ), inc) -- so that a late join of a paused steward cannot bring it back
    call('ZREMRANGEBYRANK', GONE, 0, -10001)
end
