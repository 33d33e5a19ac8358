-- Parts: names waking placing
-- ARGV: items (msgpack [[id, queue, priority, eta or false, rest], …]), now, producer, number of its call.
-- Reply: for each item 1 if it was new, else 0; or just 1 if this call was carried out before (producers.py).
local key = P .. ':producer:' .. ARGV[3]
if (tonumber(call('GET', key) or '0') or 0) >= tonumber(ARGV[4]) then return 1 end
local new = place(cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2]))
call('SET', key, ARGV[4], 'EX', 600) -- a call is repeated within seconds, by its caller later
return new
