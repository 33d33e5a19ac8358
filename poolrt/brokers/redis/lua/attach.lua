-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: incarnation, slot, generation. Reply: the epoch from now on, or nil: fenced.
despite_full_memory()
local inc, slot, generation = ARGV[1], ARGV[2], tonumber(ARGV[3])
local own, who = owners_of(inc), slot .. '.' .. generation
if call('HEXISTS', NODES, inc) == 0 then return NO_OWNER end
if call('HEXISTS', own, who) == 0 and generation <= (tonumber(call('HGET', own, 'bar.' .. slot) or '-1') or generation) then
    return NO_OWNER
end
return call('HINCRBY', own, who, 1)
