"""What the lease model is made of: the rules, what may go wrong, the broker, our node and its neighbour.

Time is a count of ticks: a lease is three, a renewal is due each tick. A start of our node is 1, 2, …
"""

from __future__ import annotations

from typing import NamedTuple

LEASE = 3
"""Ticks for which a rescuer sees the same beat before it acts."""
FENCE = 2
"""The age of its lease at which a node fences itself."""

NEIGHBOUR = 0
"""The only start of the other node, which nothing befalls but a pause."""


class Rules(NamedTuple):
    """What the protocol says, each with its number there; off: the obvious instead."""

    owner_is_start: bool = True
    """1: an owner is of one start; else of the node's name, which the next start has, too."""
    bars: bool = True
    """2: the broker refuses what a start says that left, was rescued or reclaimed."""
    renew_never_joins: bool = True
    """2: a renewal of an unknown start is refused; else it is a lease again."""
    compares_beat: bool = True
    """10: compare the beat, bar and requeue in one step; else decide, then do it."""
    full_lease: bool = True
    """10: after a full lease with the same beat; else at the second look."""
    own_clock: bool = True
    """10: on the rescuer's own clock; else by a TTL on the server's, which can jump."""
    never_wraps: bool = True
    """10: beats never wrap; else after two."""
    scans_held: bool = True
    """10: it also looks at who holds something and has no lease; else at leases only."""
    from_sending: bool = True
    """11: a node counts its lease from the sending of the answered renewal; else from the answer."""
    fences_early: bool = True
    """11: it fences itself at two thirds of the lease; else at its end."""
    cell_checked: bool = True
    """11: a child looks at the lease cell before each start; else it leaves that to its supervisor."""
    kills_refused: bool = True
    """12, 22: any refusal fences the node; else it is told like any other error."""
    condemns: bool = True
    """13: a steward that renews nothing is replaced; else only one that died."""
    at_once: bool = True
    """13: and without backoff."""
    no_user_code: bool = True
    """13: user code never runs in the loop that renews; else the next steward hangs as well."""
    reclaims_own: bool = True
    """14: a restart reclaims the starts that its lock file lists; else all of its node's name."""
    reclaims: bool = True
    """14: at once; else it leaves that to the lease."""
    sweeps_holders: bool = True
    """15: it ends who holds the lock first."""
    sweeps_marks: bool = True
    """15: and who has an old start's mark in its environment."""
    waits_instead: bool = True
    """15: while a holder cannot be ended it leaves the start to the lease."""
    shares_lock: bool = True
    """16: each child has its share of the lock; else the supervisor alone."""
    checks_lock: bool = True
    """16: a child whose share is gone leaves after the task; else it goes on."""


class Budget(NamedTuple):
    """How often each mishap may happen."""

    cuts: int = 0
    stops: int = 0
    """Pauses during which the node's clock goes on: SIGSTOP, most suspended machines."""
    freezes: int = 0
    """Pauses during which it stands still: a machine put back from a snapshot."""
    rescuer_stops: int = 0
    crashes: int = 0
    lost_hosts: int = 0
    hangs: int = 0
    steward_deaths: int = 0
    evictions: int = 0
    jumps: int = 0
    unlocked: int = 0
    unmarked: int = 0
    unkillable: int = 0


class Task(NamedTuple):
    """One message."""

    at: str = "queued"
    """queued, held, ended."""
    start: int = NEIGHBOUR
    n: int = 0


class Child(NamedTuple):
    """A child of our node: it has one request on its way, or one task."""

    start: int
    phase: str = "idle"
    """idle, asks, given, runs, settles, refused."""
    task: int = -1
    n: int = 0
    locks: bool = True
    """It has its share of the lock."""
    marked: bool = True
    """Its environment shows its start."""
    killable: bool = True
    unlocked_in: int = 0
    """The delivery during which its share went: its end is the first time to see that."""

    def __str__(self) -> str:
        return f"child of {self.start}"


class Renewal(NamedTuple):
    """A renewal on its way, or its answer."""

    ticks: int = 0
    """Since it was sent."""
    answer: str = ""
    """"" (not there yet), kept, refused; ignored without ``kills_refused``."""
    before: bool = False
    """It was sent before the clock stood still."""


class Watch(NamedTuple):
    """What the rescuer saw of a start."""

    start: int
    moved: int = 0
    """Whether its beat has moved since."""
    ticks: int = 0


class Late(NamedTuple):
    """A request whose sender is dead."""

    kind: str
    """asks, settles, renews."""
    start: int
    task: int = -1
    n: int = 0


class Node(NamedTuple):
    """Our node."""

    state: str = "serves"
    """serves, fenced, down (without supervisor), lost (the whole host)."""
    start: int = 1
    age: int = 0
    """Of its lease, in ticks of its own clock."""
    cut: bool = False
    paused: str = ""
    """"" (no), stopped, frozen."""
    back: int = 0
    """Ticks since it went on after a pause, and one; 0: none, or it has renewed since."""
    stood_still: bool = False
    """Its clock did during that pause."""
    excused: bool = False
    """Something kept it from renewing, other than itself."""
    steward: str = "up"
    """up, hung, waits (for its restart)."""
    waited: int = 0
    renewal: Renewal | None = None
    child: Child | None = Child(1)
    orphan: Child | None = None
    """The child of a supervisor that was killed."""
    orphan_age: int = 0
    listed: tuple[int, ...] = (1,)
    """The starts in the lock file."""


class World(NamedTuple):
    """Everything."""

    tasks: tuple[Task, ...]
    budget: Budget
    registered: frozenset[int] = frozenset({NEIGHBOUR, 1})
    """The starts with a lease."""
    evicted: frozenset[int] = frozenset()
    """Those whose lease was deleted by somebody else."""
    node: Node = Node()
    runs: int = -1
    """The task that the neighbour runs, taken and settled in one step each."""
    watch: Watch | None = None
    decided: int | None = None
    """Without ``compares_beat``: the start whose beat was read twice and was the same."""
    jumped: bool = False
    """The server's clock has."""
    rescuer_stopped: bool = False
    late: tuple[Late, ...] = ()
    lingers: bool = False
    """Orphans live for any time; else less than a tick."""
    namesake: bool = False
    """The neighbour is called the same: another container, with another lock."""

    def put(self, index: int, task: Task) -> World:
        """The world with this task changed."""
        return self._replace(tasks=(*self.tasks[:index], task, *self.tasks[index + 1 :]))

    def holds(self, child: Child) -> bool:
        """Whether the fence of what the child has stands."""
        return self.tasks[child.task] == Task("held", child.start, child.n)

    def with_node(self, **changes: object) -> World:
        """The world with our node changed."""
        return self._replace(node=self.node._replace(**changes))

    @property
    def waiting(self) -> int | None:
        """The task that is given out next."""
        return next((index for index, task in enumerate(self.tasks) if task.at == "queued"), None)


Step = tuple[str, World]


def spend(world: World, mishap: str) -> World:
    """The world with one of these mishaps less to come."""
    return world._replace(budget=world.budget._replace(**{mishap: getattr(world.budget, mishap) - 1}))
