-- Parts: names waking gates queueing placing holding workflows ending
-- Let a group fail. ARGV: now, name of this call, group, {state, record} (msgpack).
-- Reply: 1, or 0: it is not known, or has failed before.
local now, group = tonumber(ARGV[1]), workflows().read(ARGV[3], tonumber(ARGV[1]))
if not group then return 0 end
if group.failed then return call('HGET', group_key(group.id), 'failed') == ARGV[2] and 1 or 0 end -- this call, repeated
local failure, collects = cmsgpack.unpack(ARGV[4]), group.collects
local beside = { {}, {}, { group.id, 0, failure } }
group.collects = false
local following = { { '', '', '', {}, false, beside } }
look_at_endings(following, now)
group.collects = collects
workflows().fail_group(group, failure, now, ARGV[2])
tell_waiters(workflows().ended_ahead())
return 1
