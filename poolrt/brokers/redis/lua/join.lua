-- Parts: names waking gates queueing placing holding workflows ending owners
-- Register one start of a node. ARGV: incarnation, node. Reply: 1, or nil: it has left, or was rescued.
despite_full_memory()
if call('ZSCORE', GONE, ARGV[1]) then return NO_OWNER end
call('HSETNX', NODES, ARGV[1], ARGV[2])
call('HSETNX', BEATS, ARGV[1], 0)
return 1
