-- Parts: names waking queueing placing holding ending owners
-- Delete records whose time has passed. ARGV: now, limit. Reply: how many.
local ids = call('ZRANGEBYSCORE', EXPIRY, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
if #ids > 0 then
    call('HDEL', RES, unpack(ids))
    for _, state in ipairs({ 'failed', 'cancelled', 'expired', 'dead' }) do
        call('ZREM', P .. ':ended:' .. state, unpack(ids))
    end
    call('ZREM', EXPIRY, unpack(ids))
end
return #ids
