-- Parts: names waking gates queueing placing holding workflows ending owners
-- What an owner holds, each by itself, for when the whole cannot be read. ARGV: incarnation, slot.generation.
-- Reply: {n, i, stored message, …}.
local reply = {}
for _, each in ipairs(all_held(held_by(ARGV[1], ARGV[2]))) do
    for _, part in ipairs({ each[1], each[2], call('HGET', MSG, each[3]) or '' }) do reply[#reply + 1] = part end
end
return reply
