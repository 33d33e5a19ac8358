-- Parts: names waking gates queueing placing holding workflows ending owners
-- Leave word that a held message is to be cancelled. ARGV: id. Reply: 1, or 0 if nobody holds it.
despite_full_memory()
for _, inc in ipairs(call('HKEYS', NODES)) do
    for _, who in ipairs(owners(inc)) do
        for _, each in ipairs(all_held(held_by(inc, who))) do
            if each[3] == ARGV[1] then
                call('SADD', CANCEL, ARGV[1])
                ring(inc)
                return 1
            end
        end
    end
end
return 0
