-- Parts: names waking gates queueing placing holding workflows ending owners
-- Wake a child for each queue that has something to give. Reply: 1 if there is something to be repaired.
despite_full_memory()
for _, queue in ipairs(call('HKEYS', QUEUES)) do
    if is_inner(queue) then
        gates().adopt(queue)
    else
        local open = call('EXISTS', gates().open_of(queue)) == 1
        if open and call('HGET', QUEUES, queue) == '1' then call('HSET', QUEUES, queue, '2') end -- an older poolrt's unpause
        if open or call('EXISTS', ready(queue), suspects(queue)) > 0 then wake(queue) end
    end
end
return call('EXISTS', P .. ':mending')
