-- Parts: names waking queueing placing holding ending owners
-- Wake a child for each queue that has something to give. Reply: 1 if there is something to be repaired.
despite_full_memory()
for _, queue in ipairs(call('HKEYS', QUEUES)) do
    if call('EXISTS', ready(queue), suspects(queue)) > 0 then wake(queue) end
end
return call('EXISTS', P .. ':mending')
