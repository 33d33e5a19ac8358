-- Parts: names waking gates queueing placing holding workflows ending owners records
-- Drop the record of one task. ARGV: id. Reply: how many there were.
return drop_records({ ARGV[1] })
