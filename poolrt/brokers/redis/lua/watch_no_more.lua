-- Parts: names
-- Nothing is to be pushed to this key for these tasks any more. ARGV: key, id, …
despite_full_memory()
for at = 2, #ARGV do
    local others = {}
    for key in string.gmatch(call('HGET', WAITERS, ARGV[at]) or '', '%S+') do
        if key ~= ARGV[1] then others[#others + 1] = key end
    end
    if #others > 0 then
        call('HSET', WAITERS, ARGV[at], table.concat(others, ' '))
    else
        call('HDEL', WAITERS, ARGV[at])
    end
end
