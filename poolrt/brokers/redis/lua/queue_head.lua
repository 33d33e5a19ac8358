-- Parts: names waking queueing placing holding ending owners
-- What several queue operations do with the first queued messages of a queue. ARGV: what, queue, limit, other queue.
-- peek: reply {id, stored message, …}; empty, move: how many.
local what, queue, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = {}
for _, key in ipairs({ ready(queue), suspects(queue) }) do
    local range = call('ZRANGE', key, 0, limit - 1, 'WITHSCORES')
    for at = 1, #range, 2 do found[#found + 1] = { range[at], tonumber(range[at + 1]), key } end
end
table.sort(found, function(a, b) return a[2] < b[2] end)
local reply, gone = {}, {}
for at = 1, math.min(limit, #found) do
    local id, key = found[at][1], found[at][3]
    local value = call('HGET', MSG, id)
    local message = parse(value)
    if what == 'peek' then
        reply[#reply + 1] = id
        reply[#reply + 1] = value or ''
    elseif what == 'empty' then
        call('ZREM', key, id)
        call('HDEL', MSG, id)
        gone[#gone + 1] = id
    elseif message and ARGV[4] ~= queue then
        -- The queue's name is the second part of what the producer wrote, after the time of its making.
        local after, since = cmsgpack.unpack_limit(message.rest, 1, 0)
        local next_after = cmsgpack.unpack_limit(message.rest, 2, 0)
        local tail = next_after == -1 and '' or string.sub(message.rest, next_after + 1)
        message.rest = string.sub(message.rest, 1, after) .. cmsgpack.pack(ARGV[4]) .. tail
        message.queue = ARGV[4]
        call('ZREM', key, id)
        call('HSET', MSG, id, stored(message))
        put_in_queue(id, message)
        gone[#gone + 1] = id
    end
end
if what == 'peek' then return reply end
if what == 'move' and #gone > 0 then wake(ARGV[4]) end
if what == 'empty' then tell_waiters(gone) end
return #gone
