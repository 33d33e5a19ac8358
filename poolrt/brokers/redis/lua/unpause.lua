-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: queue. End a pause, and wake a child if messages wait.
despite_full_memory()
local open = call('EXISTS', gates().open_of(ARGV[1])) == 1
call('HSET', QUEUES, ARGV[1], open and '2' or '1')
if open or call('EXISTS', ready(ARGV[1]), suspects(ARGV[1])) > 0 then wake(ARGV[1]) end
return 1
