-- Parts: names
-- When needed: waking gates holding placing workflows ending, for settle
-- When needed: waking gates queueing choosing, for quarantine choose
-- End deliveries and reserve the next, in one step.
-- ARGV: incarnation, slot.generation, epoch, outcomes (msgpack [groups, endings] or ''), reserve, n, now,
--       choice (msgpack [queues, tasks to leave to others, whether strict, queues to leave] or ''), time of gates or ''
-- Reply: {stale, more, stored message, …}; nil when the owner is fenced.
local inc, who, reserve, n, now = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local state = call('HMGET', P .. ':own:' .. inc, who, 'floor.' .. who)
if state[1] ~= ARGV[3] then return NO_OWNER end
local held = held_by(inc, who)
local known = call('HGETALL', QUEUES)
local stale, wake_others = 0, nil
if ARGV[4] ~= '' then
    local outcomes = cmsgpack.unpack(ARGV[4])
    stale, wake_others = settle(held, outcomes[1], outcomes[2], now)
    if wake_others or #outcomes[2] > 0 then known = call('HGETALL', QUEUES) end -- a queue may have opened
end

local avoided, strict = nil, false
if ARGV[8] ~= '' then
    local choice, states, left = cmsgpack.unpack(ARGV[8]), {}, {}
    for _, queue in ipairs(choice[4]) do left[queue] = true end
    for at = 1, #known, 2 do
        if left[known[at]] then known[at + 1] = '0' end
        states[known[at]] = known[at + 1]
    end
    if #choice[1] > 0 then
        known = {}
        for _, queue in ipairs(choice[1]) do
            known[#known + 1] = queue
            known[#known + 1] = states[queue] or '0'
        end
    end
    if #choice[2] > 0 then
        avoided = {}
        for _, task in ipairs(choice[2]) do avoided[task] = true end
    end
    strict = choice[3]
end
local queues, suspected, gated, asked = {}, false, false, reserve > 0 and n > (tonumber(state[2] or '0') or 0)
for at = 1, #known, 2 do
    local queue, flag = known[at], known[at + 1]
    if flag ~= '0' then
        queues[#queues + 1] = queue
        gated = gated or flag == '2'
        suspected = suspected or call('EXISTS', suspects(queue)) == 1
    end
end

local ids, more = {}, 0
if asked and #queues == 1 and not (suspected or gated or avoided) then
    -- Cheaper than ZPOPMIN, which writes out each score; and one too many says whether there is more.
    ids = call('ZRANGE', ready(queues[1]), 0, reserve)
    if #ids > reserve then
        ids[#ids] = nil
        more = 1
    end
    if #ids > 0 then call('ZREMRANGEBYRANK', ready(queues[1]), 0, #ids - 1) end
else
    ids, more = choose(queues, asked and reserve or 0, avoided, suspected, held, gated, strict, ARGV[9])
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
if wake_others then wake_others() end
-- Not joined: to make a string the server reads all of it, at 1.5 ns a byte.
table.insert(values, 1, more)
table.insert(values, 1, stale)
return values
