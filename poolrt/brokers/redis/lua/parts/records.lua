-- What is kept of tasks that ended.
-- Forget records; how many there were.
local function drop_records(ids)
    for _, state in ipairs({ 'failed', 'cancelled', 'expired', 'dead' }) do
        call('ZREM', P .. ':ended:' .. state, unpack(ids))
    end
    call('ZREM', P .. ':expiry', unpack(ids))
    return call('HDEL', RES, unpack(ids))
end
