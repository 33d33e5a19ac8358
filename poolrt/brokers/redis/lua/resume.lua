-- Parts: names waking gates queueing placing holding workflows ending owners
-- Bar what older connections of the owner may still bring. ARGV: incarnation, slot.generation.
-- Reply: {epoch, n, i, n, i, …}, or nil: fenced.
despite_full_memory()
local own = owners_of(ARGV[1])
if call('HEXISTS', own, ARGV[2]) == 0 then return NO_OWNER end
local reply = { call('HINCRBY', own, ARGV[2], 1) }
for _, each in ipairs(all_held(held_by(ARGV[1], ARGV[2]))) do
    reply[#reply + 1] = each[1]
    reply[#reply + 1] = each[2]
end
return reply
