-- Gates: what lets the messages of one key start only so often (rate, burst), or so many at a time (slots).
--
--   message ──▶ :ready:Q\0KEY and :behind:Q ──▶ Q\0KEY in :open:Q ──reserve──▶ held, its key in :slots
--                 no token is left: Q\0KEY in :opens until promote.lua ◀──┤      │ the hold ends, however
--                 no slot is left: in neither, until one is given back ◀──┴──────┘
--
-- A message behind a gate has the inner queue Q\0KEY for its queue, so all that puts messages back puts it there. An
-- older poolrt takes that for a queue of this name: what it puts back it also runs, without the limits; adopt ends that.
-- Made when first needed: each function costs those scripts that meet no gate.
local made_gates
local function gates()
    if made_gates then return made_gates end
    local GATES, OPENS = P .. ':gates', P .. ':opens'
    local KEPT = 86400 -- seconds that a gate is kept after its last use
    local function behind(queue) return P .. ':behind:' .. queue end
    local function open_of(queue) return P .. ':open:' .. queue end

    local function parts_of(inner)
        local at = is_inner(inner)
        return string.sub(inner, 1, at - 1), string.sub(inner, at + 1)
    end

    -- The time by which gates count: the server's, so that there is one for all nodes. A test gives its own.
    local function time_of(told)
        local given = tonumber(told)
        if given then return given end
        local seconds = call('TIME')
        return tonumber(seconds[1]) + tonumber(seconds[2]) / 1e6
    end

    -- tat is the time when a bucket that is full lets the next but burst start (GCRA); busy counts its slots in use.
    local function parse_gate(value)
        local fine, packed = pcall(cmsgpack.unpack, value or '')
        if not fine or type(packed) ~= 'table' or type(packed[7]) ~= 'table' then return nil end
        for at = 1, 6 do
            if type(packed[at]) ~= 'number' or packed[at] ~= packed[at] then return nil end
        end
        for _, queue in ipairs(packed[7]) do
            if type(queue) ~= 'string' then return nil end
        end
        return { rate = packed[1], burst = math.max(packed[2], 1), slots = packed[3], tat = packed[4], busy = packed[5],
                 keep = packed[6], queues = packed[7] }
    end

    local cache = {}
    local function read(key)
        cache[key] = cache[key] or parse_gate(call('HGET', GATES, key))
        return cache[key]
    end

    local function no_limits() return { rate = 0, burst = 1, slots = 0, tat = 0, busy = 0, keep = 0, queues = {} } end

    local function write(key, gate)
        cache[key] = gate
        call('HSET', GATES, key, cmsgpack.pack({ gate.rate, gate.burst, gate.slots, gate.tat, gate.busy, gate.keep, gate.queues }))
    end

    -- How many may start now, as far as the rate goes. It never counts on more than it may have given away, so a clock
    -- that was put back, or a limit that was raised, holds nothing up.
    local function tokens(gate, time)
        if gate.rate <= 0 then return math.huge end
        local latest = time + gate.burst / gate.rate
        if gate.tat > latest then gate.tat, gate.changed = latest, true end
        return math.floor(gate.burst - math.max(0, gate.tat - time) * gate.rate)
    end

    local function slots_left(gate) return gate.slots > 0 and gate.slots - gate.busy or math.huge end

    -- The score of the first in an inner queue.
    local function head(inner)
        local least = nil
        for _, key in ipairs({ ready(inner), suspects(inner) }) do
            local score = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
            if score and (not least or score < least) then least = score end
        end
        return least
    end

    -- After an inner queue or its gate has changed: have it among those that a reserve looks at, or not. Its outer queue
    -- if something may be taken.
    local function refresh(inner, gate)
        local queue, key = parts_of(inner)
        local first = head(inner)
        gate = gate or read(key)
        if not first then call('ZREM', OPENS, inner) end
        if not first or (gate and slots_left(gate) <= 0) or call('ZSCORE', OPENS, inner) then
            call('ZREM', open_of(queue), inner)
            return nil
        end
        call('ZADD', open_of(queue), first, inner)
        local state = call('HGET', QUEUES, queue)
        if not state then introduce(queue) end
        if state ~= '0' and state ~= '2' then call('HSET', QUEUES, queue, '2') end
        return queue
    end

    local function refresh_all(key, gate)
        local opened = {}
        for _, queue in ipairs(gate.queues) do
            if refresh(queue .. '\0' .. key, gate) then opened[queue] = true end
        end
        return opened
    end

    -- Refresh, and wake who may take something.
    local function announce_inner(inner)
        local queue = refresh(inner)
        if queue then wake(queue) end
    end

    -- Messages were put into an inner queue: score, id, …
    local function wait(inner, ...) call('ZADD', behind((parts_of(inner))), ...) end

    local function leave(inner, id) call('ZREM', behind((parts_of(inner))), id) end

    -- Let the gate of an inner queue know it; the gate. One that is unknown has no limits.
    local function join_gate(inner)
        local queue, key = parts_of(inner)
        local gate = read(key) or no_limits()
        for _, known in ipairs(gate.queues) do
            if known == queue then return gate end
        end
        gate.queues[#gate.queues + 1] = queue
        write(key, gate)
        return gate
    end

    -- Meet the foreign keys of an inner queue before anything is stored; its outer queue.
    local function look(inner)
        join_gate(inner)
        local queue = parts_of(inner)
        for _, key in ipairs({ behind(queue), open_of(queue), suspects(inner), OPENS }) do call('ZCARD', key) end
        return queue
    end

    -- New messages have come: limits = {rate, burst, slots} are the gate's from now on; the last one may run from `from`.
    local function admit(inner, limits, from)
        local _, key = parts_of(inner)
        local rate, burst, slots = limits[1], math.max(limits[2], 1), limits[3]
        local gate = read(key)
        local same = gate.rate == rate and gate.burst == burst and gate.slots == slots
        if same and gate.keep >= from + KEPT / 2 then return end
        gate.rate, gate.burst, gate.slots, gate.keep = rate, burst, slots, math.max(gate.keep, from + KEPT)
        write(key, gate)
        if same then return end
        for _, queue in ipairs(gate.queues) do call('ZREM', OPENS, queue .. '\0' .. key) end
        for queue in pairs(refresh_all(key, gate)) do wake(queue) end
    end

    -- Give back the slots of what is not held any more, keys[k] of ids[k] or false; the queues of which something may be
    -- taken now.
    local function free(ids, keys)
        local counts, opened = {}, {}
        for at = 1, #ids do
            if keys[at] then counts[keys[at]] = (counts[keys[at]] or 0) + 1 end
        end
        call('HDEL', SLOTS, unpack(ids))
        for key, count in pairs(counts) do
            local gate = read(key)
            if gate then
                gate.busy = math.max(0, gate.busy - count)
                write(key, gate)
                for queue in pairs(refresh_all(key, gate)) do opened[queue] = true end
            end
        end
        return opened
    end

    -- Add the inner queues of a queue of which something may be taken, those first that begin with what is to run first;
    -- no more than could give count messages, and of these nothing that goes behind all of their first ones. met: the
    -- gates that were met, by key.
    local function add_sources(sources, queue, rank, count, time, met)
        call('ZCARD', behind(queue)) -- what is foreign is met before anything has changed
        call('ZCARD', OPENS)
        call('HLEN', SLOTS)
        local before, at = #sources, 0
        repeat
            local range = call('ZRANGE', open_of(queue), at, at + 99, 'WITHSCORES')
            for k = 1, #range, 2 do
                local inner = range[k]
                local _, key = parts_of(inner)
                local gate = met[key]
                if not gate then
                    gate = join_gate(inner)
                    gate.left, gate.took = math.min(tokens(gate, time), slots_left(gate)), 0
                    met[key] = gate
                end
                if gate.left > 0 then
                    local most = math.min(count, gate.left)
                    sources[#sources + 1] = { queue = inner, outer = queue, key = key, gate = gate, rank = rank, most = most }
                end
                if #sources - before == count then
                    for added = before + 1, #sources do sources[added].last = range[k + 1] end
                    return
                end
            end
            at = at + 100
        until #range < 200
    end

    -- A message of a source was taken: it has used up a token, and has a slot.
    local function take(source, id)
        local gate = source.gate
        gate.left, gate.took = gate.left - 1, gate.took + 1
        call('ZREM', behind(source.outer), id)
        if gate.slots > 0 then call('HSET', SLOTS, id, source.key) end
    end

    -- At the end of a reserve: what it left of the gates that it met. short: it found less than it wanted, so that what is
    -- still said to be open is looked at: an older poolrt may have emptied it.
    local function close(met, time, short)
        for key, gate in pairs(met) do
            if gate.took > 0 then
                if gate.rate > 0 then gate.tat = math.max(gate.tat, time) + gate.took / gate.rate end
                if gate.slots > 0 then gate.busy = gate.busy + gate.took end
                gate.keep = math.max(gate.keep, time + KEPT)
                gate.changed = true
            end
            if gate.changed then write(key, gate) end
            if gate.left <= 0 and tokens(gate, time) < 1 then
                local opens = gate.tat - (gate.burst - 1) / gate.rate
                for _, queue in ipairs(gate.queues) do
                    local inner = queue .. '\0' .. key
                    if head(inner) then
                        call('ZADD', OPENS, opens, inner)
                        if call('ZRANGE', OPENS, 0, 0)[1] == inner then ring('') end -- who sleeps longer is to look then
                    end
                end
            end
            if gate.took > 0 or gate.left <= 0 or short then refresh_all(key, gate) end
        end
    end

    -- Whether something behind gates of a queue may be taken; the queue's state says so from now on.
    local function is_open(queue)
        if call('EXISTS', open_of(queue)) == 1 then return true end
        if call('HGET', QUEUES, queue) == '2' then call('HSET', QUEUES, queue, '1') end
        return false
    end

    -- Open what has a token again, at most so many inner queues; seconds until the next one has, or nil.
    local function open_due(time, limit)
        for _, inner in ipairs(call('ZRANGEBYSCORE', OPENS, '-inf', time, 'LIMIT', 0, limit)) do
            call('ZREM', OPENS, inner)
            announce_inner(inner)
        end
        local following = tonumber(call('ZRANGE', OPENS, 0, 0, 'WITHSCORES')[2])
        return following and following - time
    end

    -- An older poolrt has put messages into an inner queue, and made it known as a queue.
    local function adopt(inner)
        call('HDEL', QUEUES, inner)
        call('DEL', P .. ':wake:' .. inner)
        for _, key in ipairs({ ready(inner), suspects(inner) }) do
            local found = call('ZRANGE', key, 0, 9999, 'WITHSCORES')
            for at = 1, #found, 2 do wait(inner, found[at + 1], found[at]) end
        end
        announce_inner(inner)
    end

    made_gates = {
        GATES = GATES, OPENS = OPENS, behind = behind, open_of = open_of, parts_of = parts_of, time_of = time_of,
        parse_gate = parse_gate, write = write, slots_left = slots_left, head = head, refresh = refresh,
        refresh_all = refresh_all, announce = announce_inner, look = look, wait = wait, leave = leave, join_gate = join_gate,
        admit = admit, free = free, add_sources = add_sources, take = take, close = close, is_open = is_open,
        open_due = open_due, adopt = adopt,
    }
    return made_gates
end

-- Wake who may take what was put into a queue.
local function announce(queue)
    if is_inner(queue) then return gates().announce(queue) end
    wake(queue)
end

-- Meet the foreign keys of a queue before anything is stored (see names.lua); repair.lua looks at the queues it knows.
local function look_at(queue)
    local outer = is_inner(queue) and gates().look(queue) or queue
    if not call('HGET', QUEUES, outer) then introduce(outer) end
    call('ZCARD', ready(queue))
    call('LLEN', P .. ':wake:' .. outer)
end
