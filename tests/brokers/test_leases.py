"""Contract: the beat of a node is its lease; who rescues compares it (protocol.md, 2, 10, 12).

A broker without leases only says whether a start may go on.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Buried
from poolrt.errors import Fenced
from poolrt.message import Outcome, Owner, Requeue
from poolrt.states import TaskState

Child = Callable[..., Broker]
Factory = Callable[..., Broker]
Put = Callable[..., list[str]]


@pytest.fixture
def leased(broker: Broker) -> Broker:
    """The broker, if its nodes hold leases."""
    if not broker.leases:
        pytest.skip("nodes of this broker hold no leases: a node's lock says whether it lives")
    return broker


def test_who_may_not_renew(broker: Broker) -> None:
    """A start that never joined, left or was rescued is fenced, again and again, and is not registered by asking."""
    with pytest.raises(Fenced):
        broker.renew("stranger")
    broker.join("rescued", "there")
    broker.rescue("rescued", [], suspect=True)
    broker.leave("inc")
    for incarnation in ("inc", "rescued", "stranger"):
        for _ in range(2):
            with pytest.raises(Fenced):
                broker.renew(incarnation)
    assert broker.others() == []


def test_renewing_without_leases(broker: Broker, child: Child, put: Put) -> None:
    """It moves nothing and tells nothing, and a rescue takes any beat for right."""
    if broker.leases:
        pytest.skip("nodes of this broker hold leases")
    put()
    child().settle([], 1, 1)
    assert broker.renew("inc") == {}
    assert broker.rescue("inc", [], suspect=False, beat=5) == Buried(1, settled=False)


def test_a_beat_moves_by_one(leased: Broker, broker_factory: Factory) -> None:
    """Each renewal moves the start's own beat, and tells those of all; nobody else's moves."""
    leased.join("other", "there")
    first = leased.renew("inc")
    assert set(first) == {"inc", "other"}
    again = broker_factory().renew("inc")
    assert again == {"inc": first["inc"] + 1, "other": first["other"]}
    assert leased.renew("other") == {"inc": again["inc"], "other": first["other"] + 1}


def test_joining_again_keeps_the_beat(leased: Broker) -> None:
    """A repeated join is no renewal: a rescuer that counts must not see an older beat come back, nor a new one."""
    beat = leased.renew("inc")["inc"]
    leased.join("inc", "node")
    leased.join("other", "there")
    assert leased.renew("other")["inc"] == beat


def test_who_left_has_no_beat(leased: Broker) -> None:
    """Only registered starts are told."""
    leased.join("other", "there")
    leased.join("third", "there")
    leased.leave("inc")
    leased.rescue("third", [], suspect=True)
    assert set(leased.renew("other")) == {"other"}


def test_a_rescue_with_the_beat_it_saw(leased: Broker, child: Child, put: Put) -> None:
    """The beat stands still: bar, requeue and forget in the one step."""
    put(2)
    client = child()
    client.settle([], 2, 1)
    beat = leased.renew("inc")["inc"]
    assert leased.rescue("inc", [], suspect=True, beat=beat) == Buried(2, settled=False)
    assert leased.depth().queued == 2
    with pytest.raises(Fenced):
        client.settle([], 1, 2)
    with pytest.raises(Fenced):
        leased.renew("inc")
    assert leased.rescue("inc", [], suspect=True, beat=beat) == Buried(0, settled=False)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_rescue_with_another_beat(leased: Broker, child: Child, put: Put, off: int) -> None:
    """The node has renewed since: nothing is changed, no verdict takes effect, and its owners go on."""
    put(3)
    client = child()
    held = client.settle([], 2, 1).deliveries
    beat = leased.renew("inc")["inc"]
    verdicts = [Outcome(held[0], TaskState.FAILED, b"lost"), Requeue(held[1], 0)]
    assert leased.rescue("inc", verdicts, suspect=True, beat=beat + off) == Buried(0, settled=False)
    assert leased.depth()[:3] == (1, 0, 2)
    assert leased.others() == [("inc", "node")]
    got = client.settle([Outcome(delivery, TaskState.SUCCEEDED) for delivery in held], 1, 2)
    assert (got.stale, len(got.deliveries)) == (0, 1)
    assert leased.renew("inc")["inc"] == beat + 1


def test_a_renewal_between_look_and_rescue(leased: Broker, put: Put, child: Child) -> None:
    """The beat moved after the rescuer looked: too late, by one beat."""
    leased.join("other", "there")
    seen = leased.renew("other")["inc"]
    leased.renew("inc")
    put()
    child().settle([], 1, 1)
    assert leased.rescue("inc", [], suspect=True, beat=seen).requeued == 0
    assert leased.rescue("inc", [], suspect=True, beat=seen + 1).requeued == 1


def test_a_rescue_that_asks_for_no_beat(leased: Broker, child: Child, put: Put) -> None:
    """A node takes its own dead start back at once: its lock proves it, whatever the beat is."""
    put()
    child().settle([], 1, 1)
    leased.renew("inc")
    assert leased.rescue("inc", [], suspect=False) == Buried(1, settled=False)


def test_two_rescuers(leased: Broker, broker_factory: Factory, child: Child, put: Put) -> None:
    """Both saw the same beat; one of them rescues, and nothing is requeued or counted twice."""
    (task,) = put()
    (held,) = child().settle([], 1, 1).deliveries
    beat = leased.renew("inc")["inc"]
    other = broker_factory()
    verdict = [Requeue(held, 0)]
    assert leased.rescue("inc", verdict, suspect=True, beat=beat) == Buried(1, settled=True)
    assert other.rescue("inc", verdict, suspect=True, beat=beat) == Buried(0, settled=False)
    found = leased.find(task)
    assert found is not None
    assert (found.state, found.lost) == (TaskState.QUEUED, 1)


def test_the_first_beat(leased: Broker, child: Child, put: Put) -> None:
    """A start that joined and never renewed has a beat too, by which it can be rescued."""
    leased.join("silent", "there")
    put()
    child(0, 1, "silent").settle([], 1, 1)
    beat = leased.renew("inc")["silent"]
    assert leased.rescue("silent", [], suspect=True, beat=beat) == Buried(1, settled=False)
    assert Owner("silent", 0, 1).incarnation not in leased.renew("inc")
