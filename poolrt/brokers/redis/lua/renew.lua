-- Parts: names waking gates queueing placing holding workflows ending owners
-- Move the beat of a start on. ARGV: incarnation. Reply: all beats {incarnation, beat, …}, or nil: it is not registered.
despite_full_memory()
if call('HEXISTS', NODES, ARGV[1]) == 0 then return NO_OWNER end
call('HINCRBY', BEATS, ARGV[1], 1)
return call('HGETALL', BEATS)
