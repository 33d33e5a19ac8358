-- Parts: names waking gates queueing placing holding workflows ending owners places
-- What several queue operations do with the first queued messages of a queue. ARGV: what, queue, limit, other queue.
-- peek: reply {id, stored message, …}; empty, move: how many.
local what, queue, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local found = {}
for _, key in ipairs({ ready(queue), suspects(queue), gates().behind(queue) }) do
    local range = call('ZRANGE', key, 0, limit - 1, 'WITHSCORES')
    for at = 1, #range, 2 do found[#found + 1] = { range[at], tonumber(range[at + 1]), key } end
end
table.sort(found, function(a, b) return a[2] < b[2] end)
local reply, gone, touched = {}, {}, {}
for at = 1, math.min(limit, #found) do
    local id, key = found[at][1], found[at][3]
    local value = call('HGET', MSG, id)
    local message = parse(value)
    if what ~= 'peek' and message and is_inner(message.queue) then touched[message.queue] = true end
    if what == 'peek' then
        reply[#reply + 1] = id
        reply[#reply + 1] = value or ''
    elseif what == 'empty' then
        call('ZREM', key, id)
        if message then take_from_queue(id, message) end
        call('HDEL', MSG, id)
        gone[#gone + 1] = id
    elseif message and ARGV[4] ~= queue then
        -- The queue's name is the second part of what the producer wrote, after the time of its making.
        local after, since = cmsgpack.unpack_limit(message.rest, 1, 0)
        local next_after = cmsgpack.unpack_limit(message.rest, 2, 0)
        local tail = next_after == -1 and '' or string.sub(message.rest, next_after + 1)
        local gate = is_inner(message.queue)
        local to = gate and ARGV[4] .. string.sub(message.queue, gate) or ARGV[4]
        call('ZREM', key, id)
        take_from_queue(id, message)
        message.rest = string.sub(message.rest, 1, after) .. cmsgpack.pack(to) .. tail
        message.queue = to
        call('HSET', MSG, id, stored(message))
        put_in_queue(id, message)
        if gate then
            gates().join_gate(to)
            touched[to] = true
        end
        gone[#gone + 1] = id
    end
end
if what == 'peek' then return reply end
for inner in pairs(touched) do announce(inner) end
if what == 'move' and #gone > 0 then wake(ARGV[4]) end
if what == 'empty' then tell_waiters(gone) end
return #gone
