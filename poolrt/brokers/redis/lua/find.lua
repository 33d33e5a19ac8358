-- Parts: names queueing
-- ARGV: id. Reply: {state, stored message} or {'record', stored record}, or nil.
local id = ARGV[1]
local value = call('HGET', MSG, id)
if not value then
    local record = call('HGET', RES, id)
    return record and { 'record', record }
end
if call('ZSCORE', DELAYED, id) then return { 'delayed', value } end
local message = parse(value)
if message and (call('ZSCORE', ready(message.queue), id) or call('ZSCORE', suspects(message.queue), id)) then
    return { 'queued', value }
end
return { 'reserved', value }
