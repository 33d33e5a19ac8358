-- Parts: names queueing leaks
-- What tasks left behind. Reply: {row (msgpack), …}.
local reply, all = {}, call('HGETALL', LEAKS)
for at = 1, #all, 2 do
    if leak_in(all[at], all[at + 1]) then reply[#reply + 1] = all[at + 1] end
end
return reply
