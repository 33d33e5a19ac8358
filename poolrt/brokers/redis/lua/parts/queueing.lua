-- How messages that are stored already get into a queue, and what is done with what is none.
local function quarantine(what, reason)
    call('LPUSH', P .. ':quarantine', cmsgpack.pack({ reason, string.sub(what, 1, 4096) }))
    call('LTRIM', P .. ':quarantine', 0, 999)
end

-- What is queued, delayed or held and is no stored message: out of the way.
local function put_aside(id, where)
    local value = call('HGET', MSG, id)
    quarantine(value or id, where .. (value and ', but no stored message: id ' .. id or ', but there is no message of this id'))
    call('HDEL', MSG, id)
end

local function is_count(value, most)
    return type(value) == 'number' and value >= 0 and value <= most and value % 1 == 0
end

-- seq, lost, suspect, priority, queue and the producer's part; nil for what is no stored message.
local function parse(value)
    if not value or string.byte(value) ~= 153 then return nil end
    local fine, _, seq, lost, suspect, priority, since, queue = pcall(cmsgpack.unpack_limit, value, 6, 1)
    if not fine or type(queue) ~= 'string' or not is_count(seq, 281474976710655) or not is_count(lost, 4294967295)
        or not is_count(suspect, 1) or not is_count(priority, 9) or type(since) ~= 'number' then return nil end
    local head = '\153' .. cmsgpack.pack(seq, lost, suspect, priority)
    if string.sub(value, 1, #head) ~= head then return nil end
    return { seq = seq, lost = lost, suspect = suspect, priority = priority, queue = queue,
             rest = string.sub(value, #head + 1) }
end

local function stored(message)
    return '\153' .. cmsgpack.pack(message.seq, message.lost, message.suspect, message.priority) .. message.rest
end

local function score(message) return (9 - message.priority) * 281474976710656 + message.seq end

-- Put a message that is in no queue into its own; at its old place, since its score is the old one.
local function put_in_queue(id, message)
    call('ZADD', message.suspect == 1 and suspects(message.queue) or ready(message.queue), score(message), id)
    if is_inner(message.queue) then gates().wait(message.queue, score(message), id) end
end

-- Put a held message back; changed says that lost or suspect is another now. Whether there was one.
local function put_back(id, change)
    local message = parse(call('HGET', MSG, id))
    if not message then return put_aside(id, 'held') end
    if change then
        change(message)
        call('HSET', MSG, id, stored(message))
    end
    put_in_queue(id, message)
    announce(message.queue)
    return message
end

-- Put back what a dead child ran: one more loss; now, or at a time.
local function put_back_lost(id, eta)
    local message = parse(call('HGET', MSG, id))
    if not message then return put_aside(id, 'held') end
    message.lost = message.lost + 1
    if eta then
        local after = cmsgpack.unpack_limit(message.rest, 1, 0) -- the time since when it may run
        message.rest = cmsgpack.pack(eta) .. string.sub(message.rest, after + 1)
        call('ZADD', DELAYED, eta, id)
        ring('')
    else
        put_in_queue(id, message)
        announce(message.queue)
    end
    call('HSET', MSG, id, stored(message))
end
