-- Parts: names planned
-- Take the ids that were pushed to a key, and look at them and at others. ARGV: key, now, id, …
-- Reply: {id, stored record or nil, …} of those that have no message and are not planned: ended, or unknown.
local ids, now, reply = call('LRANGE', ARGV[1], 0, -1), tonumber(ARGV[2]), {}
call('DEL', ARGV[1])
for at = 3, #ARGV do ids[#ids + 1] = ARGV[at] end
for _, id in ipairs(ids) do
    if call('HEXISTS', MSG, id) == 0 then
        local record = call('HGET', RES, id)
        if record or not is_planned(id, now) then
            reply[#reply + 1] = id
            reply[#reply + 1] = record
        end
    end
end
return reply
