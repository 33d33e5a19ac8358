-- Parts: names waking gates queueing progress
-- Keep what a running task says of itself. ARGV: id, progress, ms to keep it. Reply: 1, or 0: there is no such message.
local message = parse(call('HGET', MSG, ARGV[1]))
if not message then return 0 end
call('SET', progress_key(message), ARGV[2], 'PX', ARGV[3])
return 1
