-- Parts: names waking gates queueing places progress planned
-- ARGV: id, now. Reply: {state, stored message, progress or nil} or {'record', stored record} or {'planned'}, or nil.
local id = ARGV[1]
local value = call('HGET', MSG, id)
if not value then
    local record = call('HGET', RES, id)
    if record then return { 'record', record } end
    return is_planned(id, tonumber(ARGV[2])) and { 'planned' }
end
local message = parse(value)
return { state_of(id, message), value, progress_of(message) }
