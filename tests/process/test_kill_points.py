"""One delivery's way, cut at every step: each process that has a part in it is killed there, alone and with another.

    enqueue ─ reserve ─ run ─ result ─ audit ─ settle ─ leave ─ release     fork ─ boot ─ up     bury ─ rescue ─ promote
       at each: SIGKILL to the child, template, steward or supervisor, or to two of them at once

Each row says what must hold afterwards. What holds for all of them: the target ends exactly once and so do the tasks
beside it, nothing is held, the node goes on (or is started again under its name, where the supervisor died), stops
with 0 and leaves nothing. The points are made by ``kill_point_apps``, which the template imports. The faults of one
point are made one after the other on one node: to start one for each would take most of the time.
"""

import contextlib
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from poolrt import App
from poolrt.errors import ExitCode
from poolrt.states import TaskState
from stress.chaos.journal import Journal, complaints

BEFORE, AFTER = 10, 10
MOST_RERUNS = 64
"""A child's whole batch: what it had finished and not settled may run again, and no more than that."""


class Row(NamedTuple):
    """One point, and what becomes of the target if the process that is there dies there."""

    point: str
    runs: int
    """How often user code of the target begins."""
    lost: int
    """What its record says was lost: 1 where the board said RUN."""
    task: str = "step"
    arguments: tuple[object, ...] = ()
    state: TaskState = TaskState.SUCCEEDED
    concurrency: int = 2
    attempts: int = 1
    """How often it begins if nobody dies."""


POINTS = (
    Row("enqueue-sent", 2, 1, "make"),
    Row("enqueue-answered", 2, 1, "make"),
    Row("reserve-sent", 1, 0),
    Row("reserve-answered", 1, 0),
    Row("run-written", 1, 1),
    Row("result-ready", 2, 1),
    Row("audit", 2, 0),
    Row("settle-sent", 2, 0),
    Row("settle-answered", 1, 0),
    Row("retry-sent", 3, 0, "again", attempts=2),
    Row("retry-answered", 2, 0, "again", attempts=2),
    Row("leave-said", 2, 0, "step", (True,), TaskState.FAILED),
    Row("release-sent", 1, 0, "step", (True,), TaskState.FAILED, concurrency=1),
    Row("release-answered", 1, 0, "step", (True,), TaskState.FAILED, concurrency=1),
)
FORKS = (
    Row("fork-asked", 2, 1, "hold"),
    Row("fork-done", 2, 1, "hold"),
    Row("boot-begun", 2, 1, "hold"),
    Row("boot-up", 2, 1, "hold"),
)
"""The target runs in another child: what is said of it holds where the template takes that one with it."""

REPAIRS = (
    Row("bury-sent", 2, 1, "die_once"),
    Row("bury-answered", 2, 1, "die_once"),
    Row("rescue-sent", 2, 1, "hold"),
    Row("rescue-answered", 2, 1, "hold"),
    Row("promote-sent", 1, 0),
    Row("promote-answered", 1, 0),
)
"""The steward's own steps: what it repairs after a death is counted once, also if it dies itself meanwhile."""

WHOM = ("child", "steward", "child+steward", "template", "supervisor", "child+supervisor", "template+supervisor")
WHOM_OF_REPAIRS = ("steward", "template", "supervisor", "steward+supervisor")


def expected(row, whom):
    """How often the target may have begun, and what may be lost, when ``whom`` dies at the point."""
    node_dies = "template" in whom or "supervisor" in whom
    if row in REPAIRS:
        return {row.runs}, {row.lost}
    if whom == "steward" or (row in FORKS and not node_dies):
        return {row.attempts}, {0}
    if whom == "supervisor" and row not in FORKS:
        # The child goes on until the template sees it: to the end, or into any later step.
        return set(range(row.attempts, row.attempts + 2)), {0, 1}
    return {row.runs}, {row.lost}


def is_told(row, whom):
    """Whether the event of what was put back is told for sure: it dies with a steward that has just committed it."""
    return row not in REPAIRS or (row.point.endswith("-sent") and whom != "supervisor")


def events_of(whom):
    """The kinds of events that tell of these deaths, where the supervisor lives to tell them."""
    kinds = {"child": "child-crashed", "steward": "steward-replaced", "template": "template-lost"}
    roles = kinds if "template" in whom else whom.split("+")
    return {kinds[role] for role in roles}


class Story:
    """A node, and the faults made on it one after the other."""

    def __init__(self, place, serve, row):
        self.place, self.serve, self.row = place, serve, row
        self.app = App("kill-points", broker=f"sqlite:///{place}/p.db")
        for name in ("step", "make", "again", "die_once", "hold"):
            self.app.task(name=f"kill_point_apps.{name}")(lambda *args: None)
        self.app.broker.depth()
        self.journal = Journal(place / "p.db")
        self.journal.install()
        self.node = None
        self.results = {}

    def start(self):
        """Start the node, again if it was there, and wait until it works."""
        name = self.node.name if self.node else ""
        env = {"TEST_KILL_POINT": self.row.point, "TEST_KILL_FOLDER": str(self.place)}
        self.node = self.serve(
            "kill_point_apps:app", name=name, concurrency=self.row.concurrency, env=env,
            leak_policy="memory=ignore",  # a sampled run is settled by itself, which the points do not expect
        )  # fmt: skip
        self.node.wait_event("node-started")

    def wait_steady(self):
        """Wait until every process of the node is there and ready."""

        def steady():
            status = self.node.status()
            states = [status["steward"] and status["steward"]["state"], *(row["state"] for row in status["children"])]
            return states == ["up"] * (1 + self.row.concurrency)

        self.node.wait(steady, "steward and children are up")

    def enqueue(self, whom, countdown=None):
        """Quick tasks, so that children know the name and hold several; the target; the tasks beside it."""
        self.results = {}
        if self.row.concurrency == 1:  # the only child is kept busy, so that it holds some of what comes next
            self.results[f"{whom}.first"] = self.app.tasks["kill_point_apps.hold"].delay(f"{whom}.first")
        self._add(f"{whom}.before", BEFORE)
        target = self.app.tasks[f"kill_point_apps.{self.row.task}"]
        self.results[whom] = target.apply_async(
            (whom, *self.row.arguments), task_id=f"target.{whom}", countdown=countdown
        )
        self._add(f"{whom}.after", AFTER)
        if self.row.task == "make":
            self.results[f"made.{whom}"] = self.app.result(f"made.{whom}")
        (self.place / f"gate.{whom}.first").touch()

    def _add(self, tag, count):
        tags = [f"{tag}{i}" for i in range(count)]
        step = self.app.tasks["kill_point_apps.step"]
        self.results.update(zip(tags, step.enqueue_many([(tag,) for tag in tags]), strict=True))

    def see_struck(self, whom):
        """Wait until the fault was made, and start the node again if it took the supervisor."""
        self.node.wait((self.place / f"struck.{whom}").exists, "the fault was made", 5)
        if "supervisor" in whom:
            self.node.wait_end()
            self.start()

    def check(self, whom, ledger, told):
        """Everything has ended, once; ``told`` events came before the fault."""
        runs, lost = expected(self.row, whom)
        records = {tag: self.app.broker.wait(result.id, 10) for tag, result in self.results.items()}
        missing = [f"{tag} is {self.results[tag].state}" for tag, found in records.items() if not found]
        assert not missing
        assert records[whom].state is self.row.state
        assert records[whom].lost in lost
        others = {tag: found for tag, found in records.items() if tag != whom}
        assert {found.state for found in others.values()} == {TaskState.SUCCEEDED}
        column = ledger.column()
        assert column.count(whom) in runs, f"it ran {column.count(whom)} times"
        again = [column.count(tag) for tag in others if column.count(tag) != 1]
        deaths = 2 if self.row in REPAIRS else 1  # what there is to repair was another one
        assert set(again) <= set(range(2, deaths + 2)), "more runs than deaths before they were settled"
        assert len(again) <= (0 if whom == "steward" and self.row not in REPAIRS else MOST_RERUNS)
        lives = self.journal.read()
        wrong = {tag: complaints(lives[result.id], self.row.attempts) for tag, result in self.results.items()}
        assert {tag: said for tag, said in wrong.items() if said} == {}
        if lost == {1} and is_told(self.row, whom):
            self.node.wait_event("task-requeued", task_id=f"target.{whom}")
        if "supervisor" not in whom:
            wanted = events_of(whom) | ({"child-crashed"} if self.row.task == "die_once" else set())
            self.node.wait(lambda: self.kinds(told) >= wanted, f"the events {wanted}", 5)
            assert self.kinds(told) & events_of("template") == wanted

    def kinds(self, told):
        """The kinds of the node's events after the first ``told``."""
        return {event["kind"] for event in self.node.events()[told:]}

    def stop(self):
        """Stop the node; nothing is held, and no start of it is registered any more."""
        assert self.node.stop() == ExitCode.OK
        assert self.app.broker.depth()[:4] == (0, 0, 0, 0)
        assert self.app.broker.others() == []


@contextlib.contextmanager
def named(row, whom):
    """Name the row that an assertion is about."""
    try:
        yield
    except (AssertionError, pytest.fail.Exception) as error:
        error.add_note(f"in the row: {whom} killed at {row.point}")
        raise


@pytest.fixture
def story(place, serve):
    """``story(row)``: see ``Story``."""
    made = []

    def make(row):
        made.append(Story(place, serve, row))
        return made[-1]

    yield make
    for each in made:
        each.app.close()


@pytest.mark.parametrize("row", POINTS, ids=lambda row: row.point)
def test_a_delivery_is_cut_at_each_step(story, ledger, row):
    """Whoever dies at this step of a delivery, it ends once, and ran again only as often as the step allows."""
    told = story(row)
    told.start()
    for whom in WHOM:
        with named(row, whom):
            told.wait_steady()
            before = len(told.node.events())
            told.enqueue(whom)
            told.see_struck(whom)
            told.check(whom, ledger, before)
    told.stop()


@pytest.mark.parametrize("row", FORKS, ids=lambda row: row.point)
def test_a_fork_is_cut_at_each_step(story, ledger, place, is_gone, wait_for, row):
    """Whoever dies while a child is made, the task that runs next door ends once, and the place is filled."""
    told = story(row)
    told.start()
    for whom in WHOM:
        if row.point == "fork-asked" and "child" in whom:
            continue  # there is none yet
        with named(row, whom):
            told.wait_steady()
            before = len(told.node.events())
            told.enqueue(whom)
            told.node.wait(lambda whom=whom: whom in ledger.column(), "the target runs")
            first = next(int(words[1]) for words in ledger.lines() if words[0] == whom)
            (place / "armed").write_text(whom)
            told.node.call("recycle")
            told.see_struck(whom)
            (place / "armed").unlink()
            if expected(row, whom) != ({1}, {0}):
                wait_for(lambda first=first: is_gone(first), "the target's child is gone with its template")
            (place / f"gate.{whom}").touch()
            told.check(whom, ledger, before)
    told.stop()


@pytest.mark.parametrize("row", REPAIRS, ids=lambda row: row.point)
def test_a_repair_is_cut_at_each_step(story, ledger, place, row):
    """Whoever dies while the steward puts back what the dead held, that is put back, and counted once."""
    told = story(row)
    told.start()
    for whom in WHOM_OF_REPAIRS:
        with named(row, whom):
            told.wait_steady()
            before = len(told.node.events())
            if row.point.startswith("promote"):
                (place / "armed").write_text(whom)
                told.enqueue(whom, countdown=0.1)
            else:
                told.enqueue(whom)
            if row.task == "hold":
                told.node.wait(lambda whom=whom: whom in ledger.column(), "the target runs")
                told.node.send(signal.SIGKILL)
                told.node.wait_end()
                told.start()
                before = 0
            told.see_struck(whom)
            (place / f"gate.{whom}").touch()
            told.check(whom, ledger, before)
    told.stop()


@pytest.mark.parametrize("point", ["enqueue-sent", "enqueue-answered"])
def test_the_producer_dies_while_it_enqueues(story, place, ledger, point):
    """Before the commit nothing was enqueued; after it the task is there, and runs though nobody was woken for it."""
    told = story(Row(point, 1, 0))
    told.start()
    told.wait_steady()
    program = "import kill_point_apps as it; it.step.apply_async(('t',), task_id='target.producer')"
    env = {**os.environ, "TEST_KILL_POINT": point, "TEST_KILL_FOLDER": str(place)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=env).returncode == -9
    result = told.app.result("target.producer")
    if point == "enqueue-answered":
        assert told.app.broker.wait(result.id, 10).state is TaskState.SUCCEEDED
        assert ledger.column() == ["t"]
    else:
        assert result.state is TaskState.UNKNOWN
    told.stop()
