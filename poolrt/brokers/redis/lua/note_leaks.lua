-- Parts: names queueing leaks
-- Add up what tasks left behind. ARGV: name of this call, how many rows are kept, then field and row (msgpack) of each.
-- Reply: 1, or 0: this call was carried out before.
local carried_out, most = P .. ':producer:' .. ARGV[1], tonumber(ARGV[2])
call('HLEN', LEAKS) -- the error of a foreign key comes before anything has changed
if call('EXISTS', carried_out) == 1 then return 0 end
for at = 3, #ARGV, 2 do
    local field, packed = ARGV[at], ARGV[at + 1]
    local known = leak_in(field, call('HGET', LEAKS, field))
    local row = cmsgpack.unpack(packed)
    if known then
        call('HSET', LEAKS, field, cmsgpack.pack(with_more(row, known)))
    elseif row[4] > 0 then -- else it is runs alone, of what was forgotten
        call('HSET', LEAKS, field, packed)
    end
end
if call('HLEN', LEAKS) > most then
    local all, seen = call('HGETALL', LEAKS), {}
    for at = 1, #all, 2 do
        local row = leak_in(all[at], all[at + 1])
        if row then seen[#seen + 1] = { row[7], all[at] } end
    end
    table.sort(seen, function(a, b) return a[1] < b[1] end)
    for at = 1, #seen - most do call('HDEL', LEAKS, seen[at][2]) end
end
call('SET', carried_out, 1, 'EX', 600) -- it is made again within seconds, or when the server is back
return 1
