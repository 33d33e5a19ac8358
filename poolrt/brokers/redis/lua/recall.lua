-- Parts: names waking gates queueing placing holding workflows ending owners
-- Put back what an owner holds behind the delivery (n, i), of reserves up to upto, and let none of them give it anything.
-- ARGV: incarnation, slot.generation, n, i, upto. Reply: how many were put back.
despite_full_memory()
local own, who = owners_of(ARGV[1]), ARGV[2]
local n, i, upto = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if call('HEXISTS', own, who) == 0 then return 0 end
local held, put = held_by(ARGV[1], who), 0
if upto > (tonumber(call('HGET', own, 'floor.' .. who) or '0') or 0) then call('HSET', own, 'floor.' .. who, upto) end
for _, each in ipairs(all_held(held)) do
    if each[1] <= upto and (each[1] > n or (each[1] == n and each[2] > i)) then
        take_one(held, each[1], each[2])
        put_back(each[3])
        end_hold(each[3])
        put = put + 1
    end
end
return put
