-- Parts: names waking gates queueing placing holding workflows ending owners
-- End one start of a node for good, if its beat is still this one. ARGV: incarnation, beat or '', suspect, now,
-- verdicts (msgpack). Reply: {requeued, settled}.
despite_full_memory()
local inc, beat, now = ARGV[1], ARGV[2], tonumber(ARGV[4])
if beat ~= '' and (call('HGET', BEATS, inc) or '0') ~= beat then return { 0, 0 } end
local verdicts, requeued, settled = cmsgpack.unpack(ARGV[5]), 0, 0
for _, who in ipairs(owners(inc)) do
    local put, ended = end_owner(inc, who, verdicts, now, ARGV[3] == '1')
    requeued, settled = requeued + put, settled + ended
end
bar_start(inc)
return { requeued, settled }
