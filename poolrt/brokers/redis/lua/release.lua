-- Parts: names waking gates queueing placing holding workflows ending owners
-- Put deliveries back, uncounted, at their old place. ARGV: incarnation, slot.generation, epoch, groups (msgpack [[n, first, last], …]).
-- Reply: how many were still held, or nil: fenced.
if call('HGET', owners_of(ARGV[1]), ARGV[2]) ~= ARGV[3] then return NO_OWNER end
despite_full_memory()
local held, released = held_by(ARGV[1], ARGV[2]), 0
for _, group in ipairs(cmsgpack.unpack(ARGV[4])) do
    local ids = {}
    take_out(held, group, ids, 0)
    for _, id in ipairs(ids) do
        if id then
            put_back(id)
            end_hold(id)
            released = released + 1
        end
    end
end
return released
