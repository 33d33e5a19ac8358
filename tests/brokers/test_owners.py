"""Contract: one owner at a time, fences, and what a dead owner held (protocol.md, 1, 2, 4, 6, 17, 18)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Buried
from poolrt.clock import FakeClock
from poolrt.errors import Fenced
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]

FIRST = Owner("inc", 0, 1)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def test_a_message_has_one_owner(child: Child, put: Put) -> None:
    """What one child holds, no other is given."""
    wanted = put(4)
    first, second = child(0), child(1)
    assert ids(first.settle([], 2, 1).deliveries) + ids(second.settle([], 9, 1).deliveries) == wanted
    assert first.settle([], 9, 2).deliveries == []


def test_unknown_incarnations_are_fenced(broker_factory: Callable[[], Broker]) -> None:
    """An owner of a start that never joined cannot attach, and its bury or leave changes nothing."""
    client = broker_factory()
    with pytest.raises(Fenced, match="never joined"):
        client.attach(Owner("stranger", 0, 1))
    assert client.bury(Owner("stranger", 0, 1), None) == Buried(0, settled=False)
    assert client.leave("stranger") == 0
    assert client.others() == []


def test_an_unattached_client_is_fenced(broker: Broker, put: Put) -> None:
    """Nothing is reserved or released for a client that is nobody."""
    put()
    with pytest.raises(Fenced):
        broker.settle([], 1, 1)
    with pytest.raises(Fenced):
        broker.release([])
    assert broker.depth().queued == 1


def test_attach_and_join_may_be_repeated(broker: Broker, child: Child, put: Put) -> None:
    """A second attach or join of the living changes nothing that they hold."""
    put(2)
    client = child()
    held = client.settle([], 2, 1).deliveries
    broker.join("inc", "node")
    client.attach(FIRST)
    assert client.settle([Outcome(d, TaskState.SUCCEEDED) for d in held], 0, 2).stale == 0


def test_a_buried_owner_is_fenced_for_good(broker: Broker, child: Child, put: Put) -> None:
    """After its bury nothing an owner says changes anything, and it cannot attach again (protocol.md, 2)."""
    wanted = put(3)
    client = child()
    held = client.settle([], 2, 1).deliveries
    assert broker.bury(FIRST, None) == Buried(2, settled=False)
    for _ in range(2):
        with pytest.raises(Fenced):
            client.settle([Outcome(held[0], TaskState.SUCCEEDED, b"late")], 1, 2)
        with pytest.raises(Fenced):
            client.release(held)
        with pytest.raises(Fenced):
            client.attach(FIRST)
    assert broker.depth().queued == 3
    assert ids(child(0, 2).settle([], 9, 1).deliveries) == wanted


def test_bury_before_attach(broker: Broker, child: Child) -> None:
    """A child that dies on its way is barred too: its slow attach comes too late."""
    broker.bury(FIRST, None)
    with pytest.raises(Fenced):
        child()
    child(0, 2)
    child(1, 1)


def test_bury_bars_that_generation_alone(broker: Broker, child: Child, put: Put) -> None:
    """The slot's next generation may be attached already, and an earlier one still settling: neither is touched."""
    put(3)
    clients = [child(0, generation) for generation in (1, 2, 3)]
    held = [client.settle([], 1, 1).deliveries for client in clients]
    assert broker.bury(Owner("inc", 0, 2), None).requeued == 1
    assert clients[0].settle([Outcome(held[0][0], TaskState.SUCCEEDED)], 0, 2).stale == 0
    assert clients[2].settle([Outcome(held[2][0], TaskState.SUCCEEDED)], 0, 2).stale == 0
    assert broker.depth().queued == 1


def test_bury_is_idempotent(broker: Broker, child: Child, put: Put) -> None:
    """The steward repeats a bury whose answer it did not see: the second changes nothing."""
    put(2)
    (running, _) = child().settle([], 2, 1).deliveries
    assert broker.bury(FIRST, Requeue(running, 0)) == Buried(2, settled=True)
    again = child(0, 2).settle([], 2, 1).deliveries
    assert broker.bury(FIRST, Requeue(running, 0)) == Buried(0, settled=False)
    assert [delivery.lost for delivery in again] == [1, 0]
    assert broker.depth().reserved == 2


def test_bury_counts_only_what_ran(broker: Broker, child: Child, put: Put) -> None:
    """The running delivery is one more lost; the neighbours go back uncounted, all at their old places (17)."""
    wanted = put(4)
    held = child().settle([], 3, 1).deliveries
    broker.bury(FIRST, Requeue(held[1], 0))
    again = child(0, 2).settle([], 9, 1).deliveries
    assert ids(again) == wanted
    assert [delivery.lost for delivery in again] == [0, 1, 0, 0]


def test_bury_with_backoff(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """A lost delivery waits for its delay, then runs at its old place."""
    wanted = put(2)
    held = child().settle([], 1, 1).deliveries
    broker.bury(FIRST, Requeue(held[0], 30.0))
    found = broker.find(wanted[0])
    assert found is not None
    assert (found.state, found.lost) == (TaskState.DELAYED, 1)
    assert broker.promote() == pytest.approx(30)
    clock.advance(30)
    broker.promote()
    assert ids(child(0, 2).settle([], 9, 1).deliveries) == wanted


def test_bury_with_an_outcome(broker: Broker, child: Child, put: Put) -> None:
    """A hard limit's Outcome ends the running message in the step that requeues the rest (protocol.md, 6)."""
    first, second = put(2)
    held = child().settle([], 2, 1).deliveries
    follow_up = Enqueue(new_task_id(), b"callback", "default", 9, None)
    assert broker.bury(FIRST, Outcome(held[0], TaskState.FAILED, b"limit", follow_ups=(follow_up,))) == Buried(
        1, settled=True
    )
    found = broker.find(first)
    assert found is not None
    assert (found.state, found.record) == (TaskState.FAILED, b"limit")
    assert ids(child(0, 2).settle([], 9, 1).deliveries) == [follow_up.id, second]


def test_a_verdict_loses_to_an_earlier_settle(broker: Broker, child: Child, put: Put) -> None:
    """If the child settled just before it was killed, its outcome stands and the verdict has no effect."""
    (task,) = put()
    client = child()
    held = client.settle([], 1, 1).deliveries
    client.settle([Outcome(held[0], TaskState.SUCCEEDED, b"value")], 0, 2)
    assert broker.bury(FIRST, Outcome(held[0], TaskState.FAILED, b"limit")) == Buried(0, settled=False)
    found = broker.find(task)
    assert found is not None
    assert (found.state, found.record) == (TaskState.SUCCEEDED, b"value")


def test_a_verdict_loses_to_a_settled_retry(broker: Broker, child: Child, put: Put) -> None:
    """The verdict names the delivery, not the task: the retry that the child settled keeps its own chance."""
    (task,) = put()
    client = child()
    held = client.settle([], 1, 1).deliveries
    retry = Enqueue(task, b"second attempt", "default", 0, None)
    client.settle([Outcome(held[0], None, follow_ups=(retry,))], 0, 2)
    assert not broker.bury(FIRST, Outcome(held[0], TaskState.FAILED, b"limit")).settled
    (again,) = child(0, 2).settle([], 9, 1).deliveries
    assert again.envelope == b"second attempt"


def test_running(broker: Broker, child: Child, put: Put) -> None:
    """The board's ``(n, i)`` finds the delivery while its owner holds it, and only of that owner."""
    put(2)
    client = child()
    held = client.settle([], 2, 4).deliveries
    assert broker.running(FIRST, 4, held[1].i) == held[1]
    assert broker.running(FIRST, 3, held[1].i) is None
    assert broker.running(Owner("inc", 1, 1), 4, held[1].i) is None
    client.release([held[1]])
    assert broker.running(FIRST, 4, held[1].i) is None


def test_leave(broker: Broker, child: Child, put: Put) -> None:
    """A node that leaves puts everything back uncounted, bars its owners and cannot join again."""
    wanted = put(3)
    first, second = child(0), child(1)
    first.settle([], 1, 1)
    second.settle([], 1, 1)
    assert broker.others() == [("inc", "node")]
    assert broker.leave("inc") == 2
    assert broker.leave("inc") == 0
    assert broker.others() == []
    for client in (first, second):
        with pytest.raises(Fenced):
            client.settle([], 1, 2)
    with pytest.raises(Fenced):
        broker.join("inc", "node")
    with pytest.raises(Fenced):
        child(2)
    broker.join("next", "node")
    again = child(0, 1, "next").settle([], 9, 1).deliveries
    assert ids(again) == wanted
    assert {(delivery.lost, delivery.suspect) for delivery in again} == {(0, False)}


def test_rescue_touches_no_other_node(broker: Broker, child: Child, put: Put) -> None:
    """Rescuing one node leaves what another holds."""
    put(2)
    broker.join("other", "there")
    mine, theirs = child(0), child(0, 1, "other")
    mine.settle([], 1, 1)
    held = theirs.settle([], 1, 1).deliveries
    assert sorted(broker.others()) == [("inc", "node"), ("other", "there")]
    assert broker.rescue("inc", [], suspect=True) == Buried(1, settled=False)
    assert broker.others() == [("other", "there")]
    assert theirs.settle([Outcome(held[0], TaskState.SUCCEEDED)], 0, 2).stale == 0


def test_rescue_with_verdicts(broker: Broker, child: Child, put: Put) -> None:
    """Where the board survived, the verdicts end or count what ran, and the rest goes back uncounted, unsuspected."""
    tasks = put(4)
    first = child(0).settle([], 2, 1).deliveries
    second = child(1).settle([], 2, 1).deliveries
    verdicts = [Outcome(first[0], TaskState.FAILED, b"lost"), Requeue(second[0], 0)]
    assert broker.rescue("inc", verdicts, suspect=False) == Buried(3, settled=True)
    assert broker.rescue("inc", verdicts, suspect=False) == Buried(0, settled=False)
    broker.join("next", "node")
    again = child(0, 1, "next").settle([], 9, 1).deliveries
    assert [(d.task_id, d.lost, d.suspect) for d in again] == [
        (tasks[1], 0, False),
        (tasks[2], 1, False),
        (tasks[3], 0, False),
    ]


def test_suspects_are_delivered_alone(broker: Broker, child: Child, put: Put) -> None:
    """Where nobody saw what ran, each message is delivered singly, in order, to a child that holds nothing (18)."""
    tasks = put(5)
    child().settle([], 2, 1)
    assert broker.rescue("inc", [], suspect=True) == Buried(2, settled=False)
    broker.join("next", "node")
    client = child(0, 1, "next")
    got = client.settle([], 9, 1)
    assert [(d.task_id, d.suspect, d.lost) for d in got.deliveries] == [(tasks[0], True, 0)]
    assert got.more
    assert client.settle([], 9, 2).deliveries == []
    got = client.settle([Outcome(got.deliveries[0], TaskState.SUCCEEDED)], 9, 3)
    assert ids(got.deliveries) == [tasks[1]]
    got = client.settle([Outcome(got.deliveries[0], TaskState.SUCCEEDED)], 9, 4)
    assert ids(got.deliveries) == tasks[2:]
    assert not got.more


def test_a_batch_ends_before_a_suspect(broker: Broker, child: Child, put: Put) -> None:
    """Neither does a suspect join a batch, nor is it overtaken for ever by what came after it."""
    ahead = put(1)
    suspects = put(1)
    client = child()
    held = client.settle([], 2, 1).deliveries
    client.release(held[:1])
    broker.rescue("inc", [], suspect=True)
    behind = put(2)
    urgent = put(1, priority=9)
    broker.join("next", "node")
    client = child(0, 1, "next")
    got = client.settle([], 9, 1).deliveries
    assert ids(got) == urgent + ahead
    got = client.settle([Outcome(d, TaskState.SUCCEEDED) for d in got], 9, 2).deliveries
    assert ids(got) == suspects
    got = client.settle([Outcome(d, TaskState.SUCCEEDED) for d in got], 9, 3).deliveries
    assert ids(got) == behind


def test_a_suspect_is_counted_by_its_claim(broker: Broker, child: Child, put: Put) -> None:
    """Once alone, a suspect whose node dies again was what ran: each such loss counts, a release does not."""
    put()
    child().settle([], 1, 1)
    seen = []
    for start in range(3):
        broker.rescue("inc" if start == 0 else f"inc{start}", [], suspect=True)
        broker.join(f"inc{start + 1}", "node")
        client = child(0, 1, f"inc{start + 1}")
        (delivery,) = client.settle([], 1, 1).deliveries
        seen.append((delivery.suspect, delivery.lost))
        client.release([delivery])
        (delivery,) = client.settle([], 1, 2).deliveries
        assert (delivery.suspect, delivery.lost) == seen[-1]
    assert seen == [(True, 0), (True, 1), (True, 2)]


def test_a_suspect_stays_one(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Through release, bury and backoff a suspect is delivered alone until it ends."""
    (task,) = put()
    child().settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    put(3)
    broker.join("next", "node")
    owner = Owner("next", 0, 0)

    def alone() -> Delivery:
        nonlocal owner
        owner = owner._replace(generation=owner.generation + 1)
        (delivery,) = child(0, owner.generation, "next").settle([], 9, 1).deliveries
        assert (delivery.task_id, delivery.suspect) == (task, True)
        return delivery

    alone()
    broker.bury(owner, None)
    assert alone().lost == 0
    broker.leave("next")
    broker.join("third", "node")
    (delivery,) = child(0, 1, "third").settle([], 9, 1).deliveries
    broker.bury(Owner("third", 0, 1), Requeue(delivery, 5))
    clock.advance(5)
    broker.promote()
    (delivery,) = child(0, 2, "third").settle([], 9, 1).deliveries
    assert (delivery.task_id, delivery.suspect, delivery.lost) == (task, True, 1)
