-- The layout of the keys, and their names. Every script begins with this part.
--
-- KEYS[1] is the namespace as a hash tag, "{poolrt}". All keys of a namespace begin with it, so they lie in one Cluster
-- slot and one script may touch them all; that is why the others are built here and not passed (docs/decisions/021).
--
--   :msg        hash    id -> stored message           every message that has not ended
--   :ready:Q    zset    id, score                      queued in queue Q
--   :suspect:Q  zset    id, score                      the same, of a node that died: to be delivered alone
--   :delayed    zset    id, eta                        waits for its time
--   :held:OWNER hash    n -> msgpack array of ids      reserved; OWNER is incarnation/slot.generation, n its reserve's number
--                                                      an id's place is its i, and false where it has ended or was put back
--   :own:INC    hash    slot.generation -> epoch       owners that may be heard; bar.SLOT, floor.SLOT.GENERATION
--   :nodes      hash    incarnation -> node name       :beats  hash  incarnation -> beat     :gone  zset  starts that left
--   :queues     hash    queue -> "1", "2" if :open:Q is to be looked at too, "0" paused
--   :wake:Q, :wake      lists of wake-up tokens
--   :behind:Q   zset    id, score                      what is queued behind gates; each also in its inner queue, Q\0KEY
--   :open:Q     zset    Q\0KEY, score of its first     inner queues of which something may be taken now
--   :opens      zset    Q\0KEY, time                   inner queues that wait for a token of their gate
--   :gates      hash    key -> its limits and how far they are used (gates.lua)
--   :slots      hash    id -> key                      held messages that have a slot of a gate
--   :swept      string  wall time                      when purge.lua last looked through gates and slots
--   :unique     hash    key -> {id, wall time}         the message that has it: while it lives, and until then at least
--   :progress:SEQ       what the task of this message says of itself; it expires
--   :res        hash    id -> stored record            :expiry zset  id, wall time     :ended:STATE  zset  id, order
--   :ended:succeeded    list    the newest 10,000 ids: a zset would cost each of them more
--   :waiters    hash    id -> keys that await it       :cancel set   ids of held messages to be cancelled
--   :group:ID   hash    what a group is and what follows it (workflows.lua)    :groups  zset  id, until when it is known
--   :filled:ID  string  its bitmap: bit k is 1 once member k has filled its slot
--   :planned    zset    id, until when it is known     ids of later steps, which are not enqueued yet
--   :leaks      hash    packed kind, task, what -> row of what tasks left behind (leaks.lua)
--   :producer:ID        the number of the last call of a producer, or that a call of this name was made; for ten minutes
--   :quarantine list    what was found in a key and is not poolrt's, with the reason
--   :foreign:KEY:TIME   a key of another type than ours, renamed        :mending  string  how far repair.lua has come
--
-- A stored message is a msgpack array [seq, lost, suspect, priority, since, queue, task, id, envelope]. The first four
-- are written here (of a new message: the first); the rest is the producer's and is never touched.
-- A script reads before it writes: an error of a foreign key then comes before anything has changed.
-- Each name is one line, which a script has only if it uses the name (scripts.py).
local call = redis.call
local P = KEYS[1]
local MSG = P .. ':msg'
local RES = P .. ':res'
local PLANNED = P .. ':planned'
local DELAYED = P .. ':delayed'
local QUEUES = P .. ':queues'
local WAITERS = P .. ':waiters'
local CANCEL = P .. ':cancel'
local SLOTS = P .. ':slots'
local UNIQUE = P .. ':unique'
local SWEPT = P .. ':swept'
local LEAKS = P .. ':leaks'
local SEQ = P .. ':seq'
local NO_OWNER = false -- a nil reply: fenced
local function ready(queue) return P .. ':ready:' .. queue end
local function suspects(queue) return P .. ':suspect:' .. queue end
local function is_inner(queue) return string.find(queue, '\0', 1, true) end -- where its key begins; else nil
local function held_by(inc, who) return P .. ':held:' .. inc .. '/' .. who end
local function owners_of(inc) return P .. ':own:' .. inc end
-- With maxmemory reached, the server refuses what needs memory only as the first write of a script. What frees memory,
-- or keeps a node alive, begins with a write that needs none; enqueue does not, and is refused as a whole.
local function despite_full_memory() call('DEL', P .. ':none') end
