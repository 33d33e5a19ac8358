-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: incarnation, slot.generation, n, i. Reply: the stored message of that delivery if it is held, or nil.
local packed = call('HGET', held_by(ARGV[1], ARGV[2]), ARGV[3])
local id = packed and cmsgpack.unpack(packed)[tonumber(ARGV[4]) + 1]
return id and call('HGET', MSG, id)
