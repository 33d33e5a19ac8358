-- Parts: names waking gates queueing placing holding workflows ending owners
-- Take what cannot be read out of what an owner holds. ARGV: incarnation, slot.generation, reason,
-- groups (msgpack [[n, first, last], …]).
local held = held_by(ARGV[1], ARGV[2])
for _, group in ipairs(cmsgpack.unpack(ARGV[4])) do
    local ids = {}
    take_out(held, group, ids, 0)
    for _, id in ipairs(ids) do
        if id then
            quarantine(call('HGET', MSG, id) or id, ARGV[3] .. ' (message ' .. id .. ')')
            call('HDEL', MSG, id)
            tell_waiters({ id })
            end_hold(id)
        end
    end
end
return 1
