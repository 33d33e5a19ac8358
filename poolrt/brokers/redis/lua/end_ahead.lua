-- Parts: names waking gates queueing placing holding workflows ending
-- Keep records of ids that have neither message nor record. ARGV: now, when the records end, {{id, {state, record}}, …}
-- (msgpack), how often the call may have been carried out before. Reply: for each 1 if it was kept, else 0.
local expires, reply = ARGV[2], {}
despite_full_memory() -- so that what fills it can be cancelled
look_at_endings({ { '', '', '', false, false, { {}, {}, false } } }, tonumber(ARGV[1]))
for at, each in ipairs(cmsgpack.unpack(ARGV[3])) do
    local kept = workflows().keep(each[1], each[2], expires)
    reply[at] = (kept or (ARGV[4] ~= '0' and call('HGET', RES, each[1]) == each[2][2])) and 1 or 0
end
tell_waiters(workflows().ended_ahead())
return reply
