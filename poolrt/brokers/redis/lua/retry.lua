-- Parts: names waking gates queueing placing holding workflows ending records
-- Drop the record of a task and store its message anew. ARGV: now, name of this call, item (msgpack [item]).
-- Reply: 1, or 0: there is no record of it, or its unique key is another's.
local now, carried_out, items = tonumber(ARGV[1]), P .. ':producer:' .. ARGV[2], cmsgpack.unpack(ARGV[3])
local id, queue, unique = items[1][1], items[1][2], items[1][7]
if call('EXISTS', carried_out) == 1 then return 1 end
if call('HEXISTS', RES, id) == 0 or call('HEXISTS', MSG, id) == 1 then return 0 end
local holder = unique and holder_in(call('HGET', UNIQUE, unique[1]), now)
if holder and holder ~= id then return 0 end
look_at_endings({ { '', '', '', items } }, now)
drop_records({ id, items[1][8] or nil })
call('SET', carried_out, 1, 'EX', 600) -- as in enqueue.lua
place(items, now)
return 1
