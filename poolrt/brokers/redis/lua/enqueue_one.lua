-- Parts:
-- What enqueue.lua does, for the one message of a `.delay()`: without tables and closures it costs the server half.
-- ARGV: id, queue, priority, rest, producer, number of its call. Reply: as enqueue.lua's.
local P, call = KEYS[1], redis.call
local id, queue, key = ARGV[1], ARGV[2], P .. ':producer:' .. ARGV[5]
if (tonumber(call('GET', key) or '0') or 0) >= tonumber(ARGV[6]) then return 1 end
if call('HEXISTS', P .. ':res', id) == 1 or call('HEXISTS', P .. ':msg', id) == 1 then
    call('SET', key, ARGV[6], 'EX', 600)
    return { 0 }
end
local state, waiting = call('HGET', P .. ':queues', queue), call('LLEN', P .. ':wake:' .. queue)
local seq = call('INCR', P .. ':seq')
call('HSET', P .. ':msg', id, '\153' .. cmsgpack.pack(seq, 0, 0, tonumber(ARGV[3])) .. ARGV[4])
call('ZADD', P .. ':ready:' .. queue, (9 - ARGV[3]) * 281474976710656 + seq, id)
if not state then
    call('HSET', P .. ':queues', queue, '1')
    if call('LLEN', P .. ':wake') == 0 then call('RPUSH', P .. ':wake', '1') end
end
if state ~= '0' and waiting == 0 then call('RPUSH', P .. ':wake:' .. queue, '1') end
call('SET', key, ARGV[6], 'EX', 600)
return { 1 }
