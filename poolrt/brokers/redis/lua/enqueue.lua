-- Parts: names
-- When needed: waking gates placing workflows, for place wake workflows
-- ARGV: now, producer, number of its call, then either items (see placing.lua), perhaps groups (msgpack, see workflows.lua), or
--       of one message that may run at once: id, queue, rank, tail.
-- Reply: for each item 1 if it was new, else 0; or just 1 if this call was carried out before (producers.py).
local producer = P .. ':producer:' .. ARGV[2]
if (tonumber(call('GET', producer) or '0') or 0) >= tonumber(ARGV[3]) then return 1 end
local new, seq
if not ARGV[6] then
    if ARGV[5] then workflows().make(cmsgpack.unpack(ARGV[5]), tonumber(ARGV[1])) end
    new = place(cmsgpack.unpack(ARGV[4]), tonumber(ARGV[1]))
else -- as place does, at 60 % of its cost
    local id = ARGV[4]
    new = { 0 }
    if call('HEXISTS', RES, id) == 0 then
        seq = call('INCR', SEQ)
        new[1] = call('HSETNX', MSG, id, '\153' .. cmsgpack.pack(seq) .. ARGV[7])
    end
end
-- Before what may meet a foreign key: then repair.lua queues what is stored, and a repetition must not store it again.
call('SET', producer, ARGV[3], 'EX', 600) -- a call is repeated within seconds, by its caller later
if seq and new[1] == 1 then
    local queue = ARGV[5]
    call('ZREM', P .. ':planned', ARGV[4])
    call('ZADD', ready(queue), ARGV[6] + seq, ARGV[4])
    if call('HGET', QUEUES, queue) ~= '1' or call('LLEN', P .. ':wake:' .. queue) == 0 then wake(queue) end
end
return new
