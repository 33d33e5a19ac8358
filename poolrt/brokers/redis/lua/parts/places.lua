-- Where messages are.
local function take_from_queue(id, message)
    call('ZREM', ready(message.queue), id)
    call('ZREM', suspects(message.queue), id)
    if is_inner(message.queue) then gates().leave(message.queue, id) end
end

-- Where a message is: queued, delayed or reserved.
local function state_of(id, message)
    if call('ZSCORE', DELAYED, id) then return 'delayed' end
    local queued = message and (call('ZSCORE', ready(message.queue), id) or call('ZSCORE', suspects(message.queue), id))
    return queued and 'queued' or 'reserved'
end
