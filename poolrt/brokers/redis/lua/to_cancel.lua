-- Parts: names waking gates queueing placing holding workflows ending owners
-- What a start of a node holds and is to be cancelled. ARGV: incarnation.
-- Reply: {slot.generation, n, i, stored message, …}
local reply = {}
if call('EXISTS', CANCEL) == 0 then return reply end
for _, who in ipairs(owners(ARGV[1])) do
    for _, each in ipairs(all_held(held_by(ARGV[1], who))) do
        local value = call('SISMEMBER', CANCEL, each[3]) == 1 and call('HGET', MSG, each[3])
        if value then
            for _, part in ipairs({ who, each[1], each[2], value }) do reply[#reply + 1] = part end
        end
    end
end
return reply
