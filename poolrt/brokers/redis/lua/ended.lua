-- Parts: names waking gates queueing placing holding workflows ending owners
-- The newest records in a final state. ARGV: state, limit. Reply: {id, stored record, …}.
local state, limit, reply = ARGV[1], tonumber(ARGV[2]), {}
local range = state == 'succeeded' and 'LRANGE' or 'ZREVRANGE'
for _, id in ipairs(call(range, P .. ':ended:' .. state, 0, limit - 1)) do
    local value = call('HGET', RES, id)
    if value then
        reply[#reply + 1] = id
        reply[#reply + 1] = value
    end
end
return reply
