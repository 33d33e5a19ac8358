-- Parts: names waking gates queueing placing holding workflows ending owners
-- Queue what is due, and open the gates that have a token again; at most so many of each. ARGV: now, limit, time of gates
-- or ''. Reply: when the next message is due, then in how many seconds the next gate opens: as text, or '' for none.
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
for queue in pairs(woken) do announce(queue) end
local opens = call('EXISTS', gates().OPENS) == 1 and gates().open_due(gates().time_of(ARGV[3]), ARGV[2])
return { call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES')[2] or '', opens and string.format('%.17g', opens) or '' }
