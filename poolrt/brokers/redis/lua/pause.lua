-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: queue. Give out no message of it.
despite_full_memory()
return call('HSET', QUEUES, ARGV[1], '0')
