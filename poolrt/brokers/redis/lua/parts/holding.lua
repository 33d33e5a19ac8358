-- What an owner holds. One field for a whole reserve: what goes through redis.call is what a script costs.

-- Take a group {n, first, last}, places from 0, out of reserve n: its ids are put behind the first `total` of taken, false
-- for what was not held any more. How many taken has now, and how many of these were not held.
local function take_out(held, group, taken, total)
    local n, first, last, stale, left = group[1], group[2] + 1, group[3] + 1, 0, false
    local packed = call('HGET', held, n)
    local fine, ids = pcall(cmsgpack.unpack, packed or '\144')
    if not fine or type(ids) ~= 'table' then ids = {} end
    for at = first, last do
        local id = ids[at] or false
        total = total + 1
        taken[total] = id
        if id then
            ids[at] = false
        else
            stale = stale + 1
        end
    end
    for at = 1, #ids do
        if ids[at] then
            left = true
            break
        end
    end
    if packed then call('HDEL', held, n) end -- first, since it needs no memory: see names.lua
    if left then call('HSET', held, n, cmsgpack.pack(ids)) end
    return total, stale
end

-- Take one id out of its place.
local function take_one(held, n, i) take_out(held, { n, i, i }, {}, 0) end

-- Everything an owner holds: {n, place, id}.
local function all_held(held)
    local found, fields = {}, call('HGETALL', held)
    for at = 1, #fields, 2 do
        local fine, ids = pcall(cmsgpack.unpack, fields[at + 1])
        for place, id in ipairs(fine and type(ids) == 'table' and ids or {}) do
            if id then found[#found + 1] = { tonumber(fields[at]), place - 1, id } end
        end
    end
    return found
end
