-- What an owner holds. One field for a whole reserve: what goes through redis.call is what a script costs.

-- Take these places (from 0) out of reserve n: the ids, false for what was not held any more.
local function take_out(held, n, places)
    local packed = call('HGET', held, n)
    local fine, ids = pcall(cmsgpack.unpack, packed or '\144')
    if not fine or type(ids) ~= 'table' then ids = {} end
    local taken, left = {}, false
    for at = 1, #places do
        local place = places[at] + 1
        taken[at] = ids[place] or false
        if ids[place] then ids[place] = false end
    end
    for at = 1, #ids do
        if ids[at] then
            left = true
            break
        end
    end
    if packed then call('HDEL', held, n) end -- first, since it needs no memory: see names.lua
    if left then call('HSET', held, n, cmsgpack.pack(ids)) end
    return taken
end

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
