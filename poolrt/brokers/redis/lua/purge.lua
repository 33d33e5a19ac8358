-- Parts: names waking gates queueing placing holding workflows ending owners places records sweeping
-- Delete records whose time has passed, and what nobody needs any more. ARGV: now, limit, time of gates or ''.
-- Reply: how many records.
local now, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local ids = call('ZRANGEBYSCORE', P .. ':expiry', '-inf', now, 'LIMIT', 0, limit)
if #ids > 0 then drop_records(ids) end
sweep_workflows(now, limit)
sweep_unique(now, limit)
local swept = tonumber(call('GET', SWEPT) or '')
if not swept or swept > now or swept < now - 60 then -- by one node a minute: this reads all slots
    call('SET', SWEPT, now)
    recount_slots(limit, gates().time_of(ARGV[3]))
    sweep_behind()
end
return #ids
