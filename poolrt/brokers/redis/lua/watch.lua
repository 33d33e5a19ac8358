-- Parts: names planned
-- Say that whoever ends one of these tasks is to push its id to a key; nothing is said of what has ended.
-- ARGV: key, now, id, …
local key, now = ARGV[1], tonumber(ARGV[2])
despite_full_memory()
for at = 3, #ARGV do
    local waiting = call('HGET', WAITERS, ARGV[at])
    local is_said = waiting and string.find(' ' .. waiting .. ' ', ' ' .. key .. ' ', 1, true)
    if not is_said and (call('HEXISTS', MSG, ARGV[at]) == 1 or is_planned(ARGV[at], now)) then
        call('HSET', WAITERS, ARGV[at], waiting and waiting .. ' ' .. key or key)
    end
end
