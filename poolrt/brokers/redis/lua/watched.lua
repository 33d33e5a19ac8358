-- Parts: names
-- Take the ids that were pushed to a key, and look at them and at others. ARGV: key, id, …
-- Reply: {id, stored record or nil, …} of those that have no message: ended, or unknown.
local ids, reply = call('LRANGE', ARGV[1], 0, -1), {}
call('DEL', ARGV[1])
for at = 2, #ARGV do ids[#ids + 1] = ARGV[at] end
for _, id in ipairs(ids) do
    if call('HEXISTS', MSG, id) == 0 then
        reply[#reply + 1] = id
        reply[#reply + 1] = call('HGET', RES, id)
    end
end
return reply
