-- Parts: names waking queueing placing holding ending owners
-- ARGV: queue. End a pause, and wake a child if messages wait.
despite_full_memory()
call('HSET', QUEUES, ARGV[1], '1')
if call('EXISTS', ready(ARGV[1]), suspects(ARGV[1])) > 0 then wake(ARGV[1]) end
return 1
