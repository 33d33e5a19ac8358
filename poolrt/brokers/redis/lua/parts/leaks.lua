-- What tasks leave behind, each row as findings.LeakRow is packed:
-- {kind, task, what, count, runs, first seen, last seen, reason, stack}. One that a newer poolrt wrote may have more.
local function is_leak(row)
    if type(row) ~= 'table' or not is_count(row[4], 9007199254740992) or not is_count(row[5], 9007199254740992) then
        return false
    end
    for _, at in ipairs({ 1, 2, 3, 8, 9 }) do
        if type(row[at]) ~= 'string' then return false end
    end
    return type(row[6]) == 'number' and type(row[7]) == 'number' and row[6] == row[6] and row[7] == row[7]
end

-- The row in a field's value; nil if there is none, or what there is is none, which is put aside.
local function leak_in(field, value)
    if not value then return nil end
    local fine, row = pcall(cmsgpack.unpack, value)
    if fine and is_leak(row) then return row end
    call('HDEL', LEAKS, field) -- first, since it needs no memory: see names.lua
    quarantine(value, 'no row of what tasks left behind')
    return nil
end

-- Add a row to what was known of the same.
local function with_more(row, known)
    for at = 4, 5 do row[at] = math.min(row[at] + known[at], 9007199254740992) end
    row[6] = math.min(row[6], known[6])
    local older = known
    if known[7] > row[7] then
        row[7], row[8], row[9], older = known[7], known[8], known[9], row
    end
    if row[9] == '' then row[9] = older[9] end
    return row
end
