"""Every way in which a step can end tells its workflow: a cancel, a child's death, a body that is tried again."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from poolrt import ChordError, TaskState, chain, group
from poolrt.app.cancelled import cancelled
from poolrt.app.canvas.following import follow
from poolrt.app.options import TaskOptions
from poolrt.app.retrying import attempt_ended, retry_as_asked
from poolrt.child.reading import call_of
from poolrt.errors import Retry, TaskFailed, WorkerLost
from poolrt.message import Owner, decode_message
from poolrt.steward.undertaking import Undertaker


@pytest.fixture
def joined(tasks, store):
    """The result of a chord whose members are chains, of which the first one is held."""
    return (group(tasks.add.s(1, 1) | tasks.double.s(), tasks.add.s(2, 2)) | tasks.total.s()).delay()


def undertaker(app) -> Undertaker:
    place = SimpleNamespace(settings=SimpleNamespace(max_deliveries=1), node="n", incarnation="i")
    return Undertaker(app, place, lambda event: None, lambda: None)


def test_a_lost_child_fails_what_waits_for_its_step(app, tasks, store, joined) -> None:
    """The steward's Outcome has what the child's own has."""
    delivery = store.take(lambda ids: ids[0])
    message = decode_message(delivery.envelope)
    lost = undertaker(app)._lost(delivery, message, Owner("i", 0, 1), None)
    assert lost.state is TaskState.DEAD
    assert store.end(lost)
    with pytest.raises(ChordError, match=r"member 0 \(add#.* dead: WorkerLost"):
        joined.get(timeout=0)
    with pytest.raises((WorkerLost, TaskFailed), match="a step before it"):
        joined.parent[0].get(timeout=0)


def test_a_cancelled_run_fails_what_waits_for_its_step(store, joined) -> None:
    """As the cancel of one that waits does."""
    delivery = store.take(lambda ids: ids[0])
    assert store.end(cancelled(delivery, history="it was running"))
    with pytest.raises(ChordError, match="cancelled"):
        joined.get(timeout=0)
    assert joined.parent[0].state is TaskState.CANCELLED


def body_of(joined, worker, store):
    for _ in range(3):
        worker.step()
    delivery = store.take(lambda ids: ids[0])
    assert delivery.task_id == joined.id
    return decode_message(delivery.envelope)


def asked(message, call, **retry):
    ended = attempt_ended(message, "Retry", "", 0.0, "o", 0)
    return retry_as_asked(message, TaskOptions(), Retry(**retry), ended, call, trusted=False)


def test_a_body_that_is_tried_again_collects_again(joined, worker, store) -> None:
    """Its results are not carried; but arguments of its own, where it gives them, are all there are."""
    message = body_of(joined, worker, store)
    call = call_of(message, store)
    assert call == (([4, 4],), {})
    assert call_of(asked(message, call), store) == call
    assert call_of(asked(message, call, call_kwargs={"more": 1}), store) == (([4, 4],), {"more": 1})
    again = asked(message, call, call_args=([1],))
    assert call_of(again, store) == ([[1]], {})
    assert again.terms.collect is None


def test_a_result_that_is_gone_is_named(joined, worker, store) -> None:
    """The body cannot be called without it, and its record says which one it was."""
    message = body_of(joined, worker, store)
    del store.kept[f"{joined.id}:g.1"]
    with pytest.raises(ValueError, match=r":g\.1, a member of its group, is gone"):
        call_of(message, store)


def test_a_hop_of_a_long_chain_is_cheap(tasks, store, app) -> None:
    """It decodes one step of a thousand: a ratio to a chain of ten in the same run, and not 100 times as much."""

    def seconds(length: int) -> float:
        chain(tasks.add.s(1, 2), *[tasks.double.s()] * length).delay()
        envelope = store.stored.popitem()[1].envelope
        message = decode_message(envelope)
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            decode_message(envelope)
            follow(app, message, "json", b"1", 1.0)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(1000) < 20 * seconds(10)
