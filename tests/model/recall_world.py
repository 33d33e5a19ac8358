"""What the recall model is made of: the rules, what may go wrong, the state of everything."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.recall_store import Answer, Bury, Fence, Given, Recall, Store, Submit

Mark = tuple[Fence, int]
"""``(d, n)``: what is behind the delivery ``d`` in reserves up to ``n`` is recalled."""


class Rules(NamedTuple):
    """What the protocol says, each with its number there; off: the obvious instead."""

    own_numbers: bool = True
    """1: a fence has the child's own reserve number; else the broker's, which a rollback issues twice."""
    epochs: bool = True
    """3: after a resume the broker refuses what older connections bring."""
    resumes: bool = True
    """3: after a reconnect the child asks what it holds; else it goes on."""
    child_reconciles: bool = True
    """3: only the child does that; else the steward puts back what the child does not seem to know."""
    keeps_outcomes: bool = True
    """3: an outcome is kept until it is answered."""
    keeps_answered: bool = True
    """3: and for 2 s more, for a server that loses its last second."""
    monotone: bool = True
    """4: it never runs one at or below the last it published; else it runs whatever it is told that it holds."""
    releases: bool = True
    """4: what it will not run it puts back."""
    keeps_tickets: bool = True
    """5: a command is kept until the steward says that it is done; else until it is sent."""
    level_triggered: bool = True
    """5: each tick the steward buries what is dead and heard; else once, when it dies."""
    repeats_recalls: bool = True
    """5: each tick it repeats a recall whose floor is not there; else it does each once."""
    atomic_bury: bool = True
    """6: the verdict and the burial are one step; else the verdict is a settle of its own."""
    commit_is_short: bool = True
    """6: the word leaves RUN when the outcome is handed over; else when it is answered."""
    recalls_behind: bool = True
    """7: a recall takes what is behind the running delivery; else all but that."""
    recalls_upto: bool = True
    """7: and only of reserves up to the last one sent at the time of the mark."""
    row_first: bool = True
    """7: the reserve number is in the row before it is sent; else once it is answered."""
    floors: bool = True
    """8: a reserve up to the floor gets nothing."""
    word_moves: bool = True
    """9: the word leaves RUN(d) before the child reads the mark; else it shows d until the next one starts."""
    marks_uncovered: bool = True
    """9: no new mark while the word's delivery is covered by the present one."""
    waits_for_answers: bool = True
    """23: no new start while a batch of outcomes waits for its answer."""


class Budget(NamedTuple):
    """How often each mishap may happen."""

    crashes: int = 0
    limits: int = 0
    resets: int = 0
    recalls: int = 0
    stewards: int = 0
    saves: int = 0
    """How often the server may write its state to the disk."""
    rollbacks: int = 0
    """How often it may be killed, and start again with what it wrote last."""


class Child(NamedTuple):
    """Our child; what it knows, and its row."""

    generation: int = 1
    alive: bool = True
    n: int = 0
    epoch: int = 0
    local: tuple[Given, ...] = ()
    """What it was given and has not started."""
    run: Given | None = None
    phase: str = ""
    """Of ``run``: checked (read the mark, not published), published (the other way round), runs."""
    unsent: tuple[Given, ...] = ()
    """Finished, and no request carries the outcome."""
    pipe: tuple[Submit, ...] = ()
    """Requests on their way."""
    answers: tuple[Answer, ...] = ()
    """Answers on their way."""
    recent: tuple[Given, ...] = ()
    """Outcomes that were answered less than 2 s ago."""
    finished: tuple[Given, ...] = ()
    """All that it ever ran to the end."""
    reset: bool = False
    """Its connection has broken."""
    returns: tuple[Fence, ...] = ()
    """What it is to put back."""
    word: Fence | None = None
    """Its row: the delivery that shows as RUN."""
    row_n: int = 0
    """Its row: the last reserve sent."""
    mark: Mark | None = None
    """Its row, written by the supervisor."""

    def covered(self, fence: Fence) -> bool:
        """Whether the mark is about this delivery."""
        return self.mark is not None and fence > self.mark[0] and fence[0] <= self.mark[1]

    @property
    def unanswered(self) -> tuple[Given, ...]:
        """Every outcome that the broker has not confirmed."""
        sent = (*self.answers, *(Answer(request) for request in self.pipe))
        return tuple(sorted({*self.unsent, *(given for answer in sent for given in answer.asked.outcomes)}))

    def __str__(self) -> str:
        return f"child {self.generation}"


class World(NamedTuple):
    """Everything."""

    store: Store
    saved: Store
    """What the server has on its disk."""
    budget: Budget
    child: Child = Child()
    other: int | None = None
    """The task that another child runs; it holds one at a time, and nothing happens to it."""
    alone: bool = False
    """There is no other child."""
    tickets: frozenset[Recall | Bury] = frozenset()
    """What the supervisor wants done."""
    late: tuple[tuple[int, Submit], ...] = ()
    """Requests of connections that are no more, each with its generation."""
    late_commands: frozenset[Recall | Bury] = frozenset()
    """The same of stewards that are no more."""
    verdict: Bury | None = None
    """Without ``atomic_bury``: a verdict on its way, after the burial."""
    over: frozenset[int] = frozenset()
    """Tasks whose hard limit was to end them."""
    excused: frozenset[int] = frozenset()
    """Tasks that may start again because the server forgot who holds them; that is admitted."""


Step = tuple[str, World]


def spend(world: World, mishap: str) -> World:
    """The world with one of these mishaps less to come."""
    return world._replace(budget=world.budget._replace(**{mishap: getattr(world.budget, mishap) - 1}))
