-- Parts: names waking gates queueing placing holding workflows ending
-- Let a group fail. ARGV: now, name of this call, group, {state, record} (msgpack).
-- Reply: 1, or 0: it is not known, or has failed before.
local now, name = tonumber(ARGV[1]), ARGV[2]
local group = workflows().read(ARGV[3], now)
if not group then return 0 end
if group.failed then return call('HGET', workflows().group_key(group.id), 'failed') == name and 1 or 0 end -- by this call, repeated
local slot = { group.id, 0, cmsgpack.unpack(ARGV[4]), name }
look_at_endings({ { '', '', '', false, false, { {}, {}, slot } } }, now)
despite_full_memory()
workflows().fill(slot, now)
tell_waiters(workflows().ended_ahead())
return 1
