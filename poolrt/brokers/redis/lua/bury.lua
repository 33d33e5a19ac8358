-- Parts: names waking gates queueing placing holding workflows ending owners
-- Bar an owner for good; its verdict first, then the rest goes back. ARGV: incarnation, slot, generation, now,
-- verdicts (msgpack). Reply: {requeued, settled}.
despite_full_memory()
local inc, slot, generation = ARGV[1], ARGV[2], tonumber(ARGV[3])
local own, who = owners_of(inc), slot .. '.' .. generation
if call('HEXISTS', NODES, inc) == 0 then return { 0, 0 } end -- all its owners are barred, and what they held was put back
if generation > (tonumber(call('HGET', own, 'bar.' .. slot) or '-1') or -1) then call('HSET', own, 'bar.' .. slot, generation) end
if call('HEXISTS', own, who) == 0 then return { 0, 0 } end
local requeued, settled = end_owner(inc, who, cmsgpack.unpack(ARGV[5]), tonumber(ARGV[4]), false)
call('HDEL', own, who, 'floor.' .. who)
return { requeued, settled }
