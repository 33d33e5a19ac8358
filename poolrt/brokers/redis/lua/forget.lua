-- Parts: names holding ending
-- Drop the record of one task. ARGV: id. Reply: how many there were.
for _, state in ipairs({ 'failed', 'cancelled', 'expired', 'dead' }) do
    call('ZREM', P .. ':ended:' .. state, ARGV[1])
end
call('ZREM', EXPIRY, ARGV[1])
return call('HDEL', RES, ARGV[1])
