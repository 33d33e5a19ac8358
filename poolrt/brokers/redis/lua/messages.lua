-- Parts: names waking gates queueing places progress
-- A part of the messages that have not ended. ARGV: where to go on, how many about.
-- Reply: {where to go on, {id, state, stored message, progress or ''}, …}; what is there all the while is told once at least.
local scanned = call('HSCAN', MSG, ARGV[1], 'COUNT', ARGV[2])
local reply = { scanned[1] }
for at = 1, #scanned[2], 2 do
    local id, value = scanned[2][at], scanned[2][at + 1]
    local message = parse(value)
    reply[#reply + 1] = { id, state_of(id, message), value, progress_of(message) or '' }
end
return reply
