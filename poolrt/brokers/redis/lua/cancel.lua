-- Parts: names waking gates queueing placing holding workflows ending owners places
-- End a message that waits, if it is still as it was seen. ARGV: id, stored message, ending (msgpack), now.
-- Reply: 1 ended, 0 it is held or gone, -1 it has changed: look again.
local id, value = ARGV[1], call('HGET', MSG, ARGV[1])
if not value then return 0 end
local message = parse(value)
if not message then return 0 end
if state_of(id, message) == 'reserved' then return 0 end
if value ~= ARGV[2] then return -1 end
local ending = cmsgpack.unpack(ARGV[3])
look_at_endings({ ending }, tonumber(ARGV[4]))
call('ZREM', DELAYED, id)
take_from_queue(id, message)
if is_inner(message.queue) then gates().refresh(message.queue) end
finish({ id }, { id }, { ending }, tonumber(ARGV[4]))
tell_waiters({ id })
return 1
