"""Planned replacement: never late, never a gap, nothing lost."""

import collections
import itertools
import os

import psutil


def test_no_child_runs_more_than_its_limit(serve, tasks, ledger):
    """Of a thousand quick tasks, which are held in batches, no child runs more than ``max_tasks_per_child``."""
    results = tasks.note.enqueue_many([(str(ledger), i) for i in range(1000)])
    node = serve(max_tasks_per_child=50, max_tasks_jitter=0, concurrency=2)
    node.wait(lambda: len(ledger.lines()) >= 1000, "all ran")
    by_pid = collections.Counter(ledger.column(1))
    assert max(by_pid.values()) == 50
    assert sorted(map(int, ledger.column())) == list(range(1000)), "each ran once"
    node.wait_event("child-recycled", 18)
    for event in node.events("child-recycled"):
        assert event["cause"] == "max_tasks_per_child"
        assert event["numbers"]["done"] == 50
    assert all(result.get(5) == i for i, result in enumerate(results))
    assert node.stop() == 0


def test_jitter_spreads_the_limit_within_its_bounds(serve, tasks, ledger):
    """With a jitter of 50 % of 10 tasks each child runs 5 to 10, and they differ."""
    tasks.note.enqueue_many([(str(ledger), i) for i in range(300)])
    node = serve(max_tasks_per_child=10, max_tasks_jitter=50, concurrency=2)
    node.wait(lambda: len(ledger.lines()) >= 300, "all ran")
    node.wait_event("child-recycled", 28)
    done = {event["numbers"]["done"] for event in node.events("child-recycled")}
    assert done <= set(range(5, 11))
    assert len(done) > 2


def test_the_replacement_is_up_before_the_old_child_has_left(serve, tasks, ledger):
    """Under a steady load each leaving child's place is taken by a standby before it has exited."""
    tasks.nap.enqueue_many([(str(ledger), i, 0.02) for i in range(50)])
    node = serve(max_tasks_per_child=5, max_tasks_jitter=0)
    node.wait(lambda: len(ledger.lines()) >= 50, "all ran")
    node.wait_event("child-recycled", 9)
    working = 0
    for event in node.events():
        working += {"child-up": 1, "child-recycled": -1}.get(event["kind"], 0)
        assert working >= 1 or event["kind"] == "node-started", f"nobody works after {event}"
    from_standby = node.events("child-up", cause="took its place from standby")
    assert len(from_standby) == len(node.events("child-up")) - 1


def test_recycling_keeps_the_places_filled(serve, tasks, ledger):
    """Two children that recycle in step are below their number for at most a tenth of the time."""
    tasks.nap.enqueue_many([(str(ledger), i, 0.01) for i in range(100)])
    node = serve(max_tasks_per_child=10, max_tasks_jitter=0, concurrency=2)
    node.wait(lambda: len(ledger.lines()) >= 100, "all ran")
    events = [event for event in node.events() if event["kind"] in ("child-up", "child-recycled")][1:]
    working, missing = 1, 0.0
    for event, following in itertools.pairwise(events):
        working += 1 if event["kind"] == "child-up" else -1
        if working < 2:
            missing += following["at"] - event["at"]
    assert missing < 0.1 * (events[-1]["at"] - events[0]["at"])


def test_two_hundred_recycles_lose_nothing(serve, tasks, ledger, record):
    """600 tasks over 200 children: each runs exactly once, succeeds, and is never counted as lost."""
    results = tasks.note.enqueue_many([(str(ledger), i) for i in range(600)])
    node = serve(max_tasks_per_child=3, max_tasks_jitter=0, concurrency=2)
    node.wait_event("child-recycled", 198)
    node.wait(lambda: len(ledger.lines()) >= 600, "all ran")
    for i, result in enumerate(results):
        assert result.get(5) == i
        assert record(result).lost == 0
    assert sorted(map(int, ledger.column())) == list(range(600))
    assert not node.events("child-crashed")
    status = node.status()
    assert status["totals"]["done"] == 600
    assert status["totals"]["crashed"] == status["totals"]["killed"] == 0
    assert node.stop() == 0


def test_max_lifetime_replaces_an_idle_child(serve, tasks, ledger):
    """An idle child that is old enough leaves by itself, after its successor is up; an idle node stays clean."""
    node = serve(max_lifetime="300ms")
    recycled = node.wait_event("child-recycled", 2)
    assert {event["cause"] for event in recycled} == {"max_lifetime"}
    assert all(event["numbers"]["done"] == 0 for event in recycled)
    assert tasks.note.delay(str(ledger), "t").get(5) == "t"
    assert not node.events("child-crashed")
    assert node.stop() == 0


def test_max_lifetime_waits_for_the_task_of_a_busy_child(serve, tasks, ledger, gate, record):
    """A child past its lifetime finishes what it runs; its place is filled meanwhile, and it leaves after the task."""
    held = tasks.hold.delay(str(ledger), "long", str(gate))
    node = serve(max_lifetime="300ms")
    node.wait(ledger.lines, "the task runs")
    others = [tasks.note.delay(str(ledger), i) for i in range(3)]
    assert [other.get(5) for other in others] == [0, 1, 2], "the place was not filled"
    assert not held.ready()
    gate.touch()
    assert held.get(5) == "long"
    pid = int(ledger.lines()[0][2])
    (left,) = node.wait_event("child-recycled", pid=pid)
    assert left["cause"] == "max_lifetime"
    assert left["numbers"]["done"] == 1
    assert record(held).lost == 0


def test_recycle_on_demand_replaces_busy_and_idle_children(serve, tasks, ledger, gate):
    """The control request replaces all children, each between two tasks, and runs nothing twice."""
    held = tasks.hold.delay(str(ledger), "long", str(gate))
    node = serve(concurrency=3).wait_up(3)
    node.wait(ledger.lines, "the task runs")
    before = set(node.pids()["children"])
    assert node.call("recycle", slots=[])["recycling"] == 3
    node.wait_event("child-recycled", 2)
    gate.touch()
    assert held.get(5) == "long"
    node.wait_event("child-recycled", 3)
    node.wait_event("child-up", 6)
    assert {event["cause"] for event in node.events("child-recycled")} == {"asked to"}
    assert not before & set(node.pids()["children"])
    assert len(ledger.lines()) == 2


def test_recycling_leaves_no_fd_behind(serve, tasks, ledger):
    """A hundred recycles later supervisor and template hold exactly the fds they held before."""
    node = serve(max_tasks_per_child=2, max_tasks_jitter=0, concurrency=2).wait_up(2)

    def fds():
        return {
            pid: len(os.listdir(f"/proc/{pid}/fd")) for role in ("supervisor", "template") for pid in node.pids()[role]
        }

    def settled():
        return (
            node.status()["queue"]["queued"] == 0
            and len(node.status()["children"]) == 4  # two at work and two standbys
            and {child["state"] for child in node.status()["children"]} == {"up", "standby"}
        )

    tasks.note.enqueue_many([(str(ledger), i) for i in range(20)])
    node.wait_event("child-recycled", 9)
    node.wait(settled, "the pool is whole again")
    before = fds()
    tasks.note.enqueue_many([(str(ledger), i) for i in range(200)])
    node.wait_event("child-recycled", 108)
    node.wait(settled, "the pool is whole again")
    node.wait(lambda: fds() == before, f"the fds of before, {before}, not {fds()}")


def test_the_supervisor_stays_small_over_recycles(serve, tasks, ledger):
    """Three hundred recycles cost the supervisor no memory: it stays within 512 KiB of what it had after fifty."""
    node = serve(max_tasks_per_child=2, max_tasks_jitter=0, concurrency=2, log_level="warning")
    process = psutil.Process(node.pid)

    def run(count):
        already = len(ledger.lines())
        tasks.note.enqueue_many([(str(ledger), i) for i in range(count)])
        node.wait(lambda: len(ledger.lines()) >= already + count, "all ran", 30)

    run(100)
    before = process.memory_info().rss
    run(600)
    assert process.memory_info().rss - before < 512 * 1024
    assert process.memory_info().rss < 40 * 1024 * 1024
