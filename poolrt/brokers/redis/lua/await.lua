-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: id, key. Say that whoever ends this task is to push to that key.
despite_full_memory()
local waiting = call('HGET', WAITERS, ARGV[1])
if waiting and string.find(' ' .. waiting .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then return 0 end
return call('HSET', WAITERS, ARGV[1], waiting and waiting .. ' ' .. ARGV[2] or ARGV[2])
