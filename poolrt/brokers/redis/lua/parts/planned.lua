-- Whether an id without message and record is that of a later step, which is not enqueued yet.
local function is_planned(id, now)
    local lasts = tonumber(call('ZSCORE', PLANNED, id) or '')
    return lasts and lasts > now
end
