-- Parts: names waking gates placing
-- ARGV: key, now. Reply: the id of the message that has this unique key, or nil.
return holder_in(call('HGET', UNIQUE, ARGV[1]), tonumber(ARGV[2])) or false
