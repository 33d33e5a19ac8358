-- Parts: names waking placing
-- ARGV: items (msgpack [[id, queue, priority, eta or false, rest], …]), now. Reply: for each item 1 if it was new, else 0.
return place(cmsgpack.unpack(ARGV[1]), tonumber(ARGV[2]))
