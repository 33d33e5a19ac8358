-- Parts: names waking queueing placing holding ending owners
-- Queue what is due, at most so many. ARGV: now, limit. Reply: when the next is due, as text, or nil.
local due, woken = call('ZRANGEBYSCORE', DELAYED, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2]), {}
for _, id in ipairs(due) do
    call('ZREM', DELAYED, id)
    local message = parse(call('HGET', MSG, id))
    if message then
        put_in_queue(id, message)
        woken[message.queue] = true
    else
        put_aside(id, 'delayed')
    end
end
for queue in pairs(woken) do wake(queue) end
return call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2]
