-- Parts: names waking gates queueing placing holding workflows ending owners
-- ARGV: id, key. The waiter has gone.
call('DEL', ARGV[2])
local waiting, others = call('HGET', WAITERS, ARGV[1]), {}
if not waiting then return 0 end
for key in string.gmatch(waiting, '%S+') do
    if key ~= ARGV[2] then others[#others + 1] = key end
end
if #others > 0 then return call('HSET', WAITERS, ARGV[1], table.concat(others, ' ')) end
return call('HDEL', WAITERS, ARGV[1])
