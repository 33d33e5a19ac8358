"""Soft limits on a real node: the supervisor's signals, the child's stages, what the task and its caller see."""

import pytest

from poolrt.errors import TaskFailed
from poolrt.states import TaskState

SOFT = 0.2  # as in soft_apps
SLACK = 0.8  # seconds: a busy machine, before the next stage would be due

S0 = {"statements": 0.15, "awaiting": 0.15}  # with the seconds of their cleanup
S1 = {"sleeping": 0.1}
S2 = {"in_library": 1.0, "blocking": 1.0, "shielded": 1.2}


@pytest.fixture
def app(place):
    """The App of soft_apps on this test's broker file."""
    import soft_apps

    made = soft_apps.build(f"sqlite:///{place}/p.db")
    yield made
    made.close()


def test_each_way_of_being_stuck_ends_in_its_stage(serve, tasks, ledger, record):
    """Statements, a sleep, a library, coroutines, a shield: each task fails by its soft limit, cleaned up, no earlier
    and no later than its stage, and its child is recycled; the hard limit kills none."""
    late = {**S0, **S1, **S2}
    results = {name: getattr(tasks, name).delay(str(ledger)) for name in late}
    node = serve("soft_apps:app", concurrency=2)
    for name, after in late.items():
        with pytest.raises(TaskFailed) as error:
            results[name].get(20)
        ended = record(results[name])
        assert (error.value.cause, ended.state, ended.lost) == ("SoftTimeLimitExceeded", TaskState.FAILED, 0)
        assert SOFT + after <= ended.runtime + 0.001
        assert ended.runtime < SOFT + after + SLACK, name
    assert {(words[0], words[1]) for words in ledger.lines()} == {(name, "cleaned") for name in late}
    assert len(node.wait_event("child-recycled", len(late))) == len(late)
    assert len(set(ledger.column(2))) == len(late), "a child went on after it"
    assert not node.events("child-killed")
    assert node.stop() == 0


def test_a_task_that_answers_in_time_has_succeeded(serve, tasks, ledger, record):
    """One that catches its soft limit and returns has succeeded; its child is recycled all the same."""
    node = serve("soft_apps:app")
    result = tasks.partial.delay(str(ledger))
    assert result.get(10) == "partial"
    assert record(result).state is TaskState.SUCCEEDED
    assert node.wait_event("child-recycled")
    assert node.stop() == 0
