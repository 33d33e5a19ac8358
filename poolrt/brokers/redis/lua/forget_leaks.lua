-- Parts: names
-- Forget what tasks left behind. Reply: how many rows there were.
local count = call('HLEN', LEAKS)
call('DEL', LEAKS)
return count
