-- Parts: names waking gates queueing places progress
-- ARGV: id. Reply: {state, stored message, progress or nil} or {'record', stored record}, or nil.
local id = ARGV[1]
local value = call('HGET', MSG, id)
if not value then
    local record = call('HGET', RES, id)
    return record and { 'record', record }
end
local message = parse(value)
return { state_of(id, message), value, progress_of(message) }
