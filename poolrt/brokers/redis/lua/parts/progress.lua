-- What a running task says of itself: of this message, and not of another one that has its id later.
local function progress_key(message) return P .. ':progress:' .. string.format('%.0f', message.seq) end

-- False for nothing, or what is another program's.
local function progress_of(message)
    local told = message and redis.pcall('GET', progress_key(message))
    return type(told) == 'string' and told
end
