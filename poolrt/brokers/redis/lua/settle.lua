-- Parts: names holding ending
-- When needed: waking placing queueing choosing, for place quarantine choose
-- End deliveries and reserve the next, in one step.
-- ARGV: incarnation, slot.generation, epoch, outcomes (msgpack [groups, endings] or ''), reserve, n, now,
--       choice (msgpack [queues, tasks to leave to others] or '')
-- Reply: msgpack [stale, more, [stored message, …]], its parts put one after the other; nil when the owner is fenced.
local inc, who, reserve, n, now = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local state = call('HMGET', P .. ':own:' .. inc, who, 'floor.' .. who)
if state[1] ~= ARGV[3] then return NO_OWNER end
local held = held_by(inc, who)
local known = call('HGETALL', QUEUES)
local stale = 0
if ARGV[4] ~= '' then
    local outcomes = cmsgpack.unpack(ARGV[4])
    stale = settle(held, outcomes[1], outcomes[2], now)
    if #outcomes[2] > 0 then known = call('HGETALL', QUEUES) end -- follow-ups may have opened a queue
end

local chosen, avoided = nil, nil
if ARGV[8] ~= '' then
    local choice = cmsgpack.unpack(ARGV[8])
    if #choice[1] > 0 then
        chosen = {}
        for _, queue in ipairs(choice[1]) do chosen[queue] = true end
    end
    if #choice[2] > 0 then
        avoided = {}
        for _, task in ipairs(choice[2]) do avoided[task] = true end
    end
end
local queues, suspected = {}, false
for at = 1, #known, 2 do
    local queue = known[at]
    if known[at + 1] ~= '0' and (not chosen or chosen[queue]) then
        local suspects_wait = call('EXISTS', suspects(queue)) == 1
        if suspects_wait or call('EXISTS', ready(queue)) == 1 then queues[#queues + 1] = queue end
        suspected = suspected or suspects_wait
    end
end

local ids = {}
if reserve > 0 and n > (tonumber(state[2] or '0') or 0) and #queues > 0 then
    if #queues == 1 and not suspected and not avoided then
        -- Cheaper than ZPOPMIN, which writes out each score.
        ids = call('ZRANGE', ready(queues[1]), 0, reserve - 1)
        if #ids > 0 then call('ZREMRANGEBYRANK', ready(queues[1]), 0, #ids - 1) end
    else
        ids = choose(queues, reserve, avoided, suspected, held)
    end
end

local values = {}
if #ids > 0 then
    values = call('HMGET', MSG, unpack(ids))
    for at = #ids, 1, -1 do
        if not values[at] then
            quarantine(ids[at], 'queued, but there is no message of this id')
            table.remove(values, at)
            table.remove(ids, at)
        end
    end
    if #ids > 0 then call('HSET', held, ARGV[6], cmsgpack.pack(ids)) end
end
local more = 0
for _, queue in ipairs(queues) do
    if call('EXISTS', ready(queue)) == 1 or call('EXISTS', suspects(queue)) == 1 then more = 1 end
end
local count = #values < 16 and string.char(144 + #values) or '\220' .. struct.pack('>H', #values)
return '\147' .. cmsgpack.pack(stale, more) .. count .. table.concat(values)
