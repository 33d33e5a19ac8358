"""One delivery's way, cut at every step: each process that has a part in it is killed there, alone and with another.

    enqueue ─ reserve ─ run ─ result ─ audit ─ settle ─ leave ─ release        fork ─ boot ─ up
       at each: SIGKILL to the child, template, steward or supervisor, or to two of them at once

Each row says what must hold afterwards. What holds for all of them: the target ends exactly once and so do the tasks
beside it, nothing is held, the node goes on (or is started again under its name, where the supervisor died), stops
with 0 and leaves nothing. The points are made by ``kill_point_apps``, which the template imports.
"""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest

from poolrt import App
from poolrt.errors import ExitCode
from poolrt.states import TaskState
from stress.chaos.journal import Journal, complaints

TARGET, MADE = "target", "made"  # as in kill_point_apps, which patches whoever imports it
BESIDE = 20
MOST_RERUNS = 64
"""A child's whole batch: what it had finished and not settled may run again, and no more than that."""


class Row(NamedTuple):
    """One point: what happens to the target if the process that is there dies there."""

    point: str
    runs: int
    """How often user code of the target begins, if the child at the point dies; 1 if nobody that matters does."""
    lost: int
    """What its record then says was lost: 1 where the board says RUN."""
    task: str = "step"
    state: TaskState = TaskState.SUCCEEDED
    concurrency: int = 2


POINTS = (
    Row("enqueue-sent", 2, 1, "make"),
    Row("enqueue-answered", 2, 1, "make"),
    Row("reserve-sent", 1, 0),
    Row("reserve-answered", 1, 0),
    Row("run-written", 1, 1),
    Row("result-ready", 2, 1),
    Row("result-kept", 2, 0),
    Row("settle-sent", 2, 0),
    Row("settle-answered", 1, 0),
    Row("leave-said", 2, 0, "leave", TaskState.FAILED),
    Row("release-sent", 1, 0, "leave", TaskState.FAILED, concurrency=1),
    Row("release-answered", 1, 0, "leave", TaskState.FAILED, concurrency=1),
)
FORKS = (
    Row("fork-asked", 2, 1, "hold"),
    Row("fork-done", 2, 1, "hold"),
    Row("boot-begun", 2, 1, "hold"),
    Row("boot-up", 2, 1, "hold"),
)
"""Here the target runs in another child, and is lost only if the template takes that one with it."""

WHOM = ("child", "template", "steward", "supervisor", "child+supervisor", "template+supervisor", "child+steward")


@pytest.fixture
def kill_app(place):
    """The app of kill_point_apps as its producers see it: its tasks' names, without its faults."""
    app = App("kill-points", broker=f"sqlite:///{place}/p.db")
    for name in ("step", "make", "leave", "hold"):
        app.task(name=f"kill_point_apps.{name}")(lambda tag: None)
    app.broker.depth()
    Journal(place / "p.db").install()
    yield app
    app.close()


@pytest.fixture
def environ(place, ledger, gate):
    """``environ(point, whom)``: what tells the app where to kill whom."""

    def make(point, whom):
        return {
            "TEST_KILL_POINT": point, "TEST_KILL_WHOM": whom, "TEST_KILL_FLAG": str(place / "struck"),
            "TEST_KILL_LEDGER": str(ledger), "TEST_KILL_GATE": str(gate), "TEST_KILL_ARMED": str(place / "armed"),
        }  # fmt: skip

    return make


@pytest.fixture
def story(place, kill_app, environ, serve, ledger, wait_for):
    """The story of one row, step by step; see ``Story``."""
    return Story(place, kill_app, environ, serve, ledger, wait_for)


class Story:
    """A node, its target among other tasks, and the fault."""

    def __init__(self, place, app, environ, serve, ledger, wait_for):
        self.struck = place / "struck"
        self.journal = Journal(place / "p.db")
        self.app, self.environ, self.serve, self.ledger, self.wait_for = app, environ, serve, ledger, wait_for
        self.results = {}

    def enqueue(self, task):
        """Quick tasks, so that children know the name and hold several; the target; the tasks beside it."""
        step, target = self.app.tasks["kill_point_apps.step"], self.app.tasks[f"kill_point_apps.{task}"]
        self._add(step, [f"before{i}" for i in range(BESIDE)])
        self.results[TARGET] = target.apply_async((TARGET,), task_id=TARGET)
        self._add(step, [f"beside{i}" for i in range(BESIDE)])

    def _add(self, step, tags):
        self.results.update(zip(tags, step.enqueue_many([(tag,) for tag in tags]), strict=True))

    def start(self, row, whom, name=""):
        """Start the node, or start it again under its name."""
        return self.serve("kill_point_apps:app", name=name, concurrency=row.concurrency,
                          env=self.environ(row.point, whom))  # fmt: skip

    def see_struck(self, node, row, whom):
        """Wait until the fault was made, and start the node again if it took the supervisor; the node that serves."""
        node.wait(self.struck.exists, f"the fault {row.point}: it was not made")
        if "supervisor" not in whom:
            return node
        node.wait_end()
        return self.start(row, whom, node.name)

    def end(self, node, row, *, runs, lost, kills):
        """Everything ends, once; then the node stops and nothing is held."""
        records = {}
        for tag, result in self.results.items():
            found = self.app.broker.wait(result.id, 15)
            assert found is not None, f"{tag} has not ended: it is {result.state}"
            assert found.record is not None, f"{tag} ended without a record"
            records[tag] = found
        assert records[TARGET].state is row.state
        assert records[TARGET].lost in lost
        assert {found.state for tag, found in records.items() if tag != TARGET} == {TaskState.SUCCEEDED}
        if TARGET in lost:
            node.wait_event("task-requeued", task_id=TARGET)
        assert node.stop() == ExitCode.OK
        self.check_ledger(runs, kills)
        assert self.app.broker.depth()[:4] == (0, 0, 0, 0)
        assert self.app.broker.others() == [], "a start of the node is registered that has ended"

    def check_ledger(self, runs, kills):
        """The target ran as often as its row says; others ran again only if a child was killed."""
        column = self.ledger.column()
        assert column.count(TARGET) in runs
        lives = self.journal.read()
        wrong = {tag: complaints(lives[result.id]) for tag, result in self.results.items()}
        assert {tag: said for tag, said in wrong.items() if said} == {}
        again = {tag: column.count(tag) for tag in self.results if tag != TARGET and column.count(tag) != 1}
        assert len(again) <= (MOST_RERUNS if kills else 0), again
        assert set(again.values()) <= {2}, again


def expected(row, whom):
    """How often the target may have begun, and what may be lost, by whom the fault takes."""
    if whom == "steward":
        return {1}, {0}
    if whom == "supervisor":  # the child goes on until the template sees it: to the end, or into any later step
        return {1, 2}, {0, 1}
    return {row.runs}, {row.lost}


@pytest.mark.parametrize("whom", WHOM)
@pytest.mark.parametrize("row", POINTS, ids=lambda row: row.point)
def test_a_delivery_is_cut_at_each_step(story, row, whom):
    """Whoever dies at this step of a delivery, it ends once, and ran again only as often as the step allows."""
    story.enqueue(row.task)
    node = story.start(row, whom)
    node = story.see_struck(node, row, whom)
    runs, lost = expected(row, whom)
    if row.task == "make":
        story.results[MADE] = story.app.result(MADE)
    story.end(node, row, runs=runs, lost=lost, kills=whom != "steward")
    if lost == {1}:
        assert node.events("task-requeued", task_id=TARGET)
    if "supervisor" not in whom:
        for role, kind in (("child", "child-crashed"), ("template", "template-lost"), ("steward", "steward-replaced")):
            assert bool(node.events(kind)) == (role in whom or "template" in whom), kind


@pytest.mark.parametrize("whom", WHOM)
@pytest.mark.parametrize("row", FORKS, ids=lambda row: row.point)
def test_a_fork_is_cut_at_each_step(story, row, whom, gate, is_gone, tmp_path):
    """Whoever dies while a child is made, the task that runs next door ends once, and the place is filled."""
    if row.point == "fork-asked" and "child" in whom:
        pytest.skip("there is no child yet")
    story.enqueue(row.task)
    node = story.start(row, whom)
    story.wait_for(lambda: TARGET in story.ledger.column(), "the target runs")
    node.wait_up(2)
    runs_in = int(next(words[1] for words in story.ledger.lines() if words[0] == TARGET))
    (story.struck.parent / "armed").touch()
    node.call("recycle")
    takes_it = "template" in whom or "supervisor" in whom
    again = story.see_struck(node, row, whom)
    if takes_it:
        story.wait_for(lambda: is_gone(runs_in), "the target's child is gone")
    gate.touch()
    runs, lost = ({2}, {1}) if takes_it else ({1}, {0})
    story.end(again, row, runs=runs, lost=lost, kills=takes_it)


@pytest.mark.parametrize("point", ["enqueue-sent", "enqueue-answered"])
def test_the_producer_dies_while_it_enqueues(story, kill_app, environ, place, ledger, wait_for, point):
    """Before the commit nothing was enqueued; after it the task is there, and runs though nobody was woken for it."""
    node = story.serve("kill_point_apps:app", env=environ("", "")).wait_up()
    program = "import kill_point_apps as it\nit.step.apply_async((it.TARGET,), task_id=it.TARGET)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=place,
        env={**os.environ, **environ(point, "producer"), "TEST_KILL_PRODUCER": "1"},
    )  # fmt: skip
    assert done.returncode == -9
    if point == "enqueue-answered":
        assert kill_app.result(TARGET).get(10) is None or ledger.column() == [TARGET]
        assert ledger.column() == [TARGET]
    else:
        assert kill_app.result(TARGET).state is TaskState.UNKNOWN
    assert node.stop() == ExitCode.OK
