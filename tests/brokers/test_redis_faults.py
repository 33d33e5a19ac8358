"""Redis: a server that is away, stopped or killed, and answers that are lost: what is told, and when."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolrt.errors import BrokerFull, BrokerUnreachable, Fenced
from poolrt.message import Enqueue, Outcome, Owner, Unique
from poolrt.states import TaskState
from tests.brokers.faults import (
    OWNER,
    SOON,
    Open,
    attached,
    done,
    item,
    places,
    put,
    sha,
    within,
)
from tests.brokers.proxy import Proxy
from tests.servers import Server, Servers, until

# ---- nobody there


def test_refused(server: Server, open_redis: Open) -> None:
    """Every call says so, at the end of its timeout; when the server is back, the same object works."""
    broker = open_redis(server.url(), timeout=0.5)
    (task,) = put(broker)
    server.kill()
    calls: list[Callable[[], object]] = [
        lambda: put(broker), lambda: broker.find(task), broker.depth, broker.promote, lambda: broker.wait(task, 10),
        lambda: broker.cancel(task, done), lambda: broker.attach(OWNER),
    ]  # fmt: skip
    for call in calls:
        with within(0.5 + SOON), pytest.raises(BrokerUnreachable, match="nothing listens there"):
            call()
    server.start()
    assert broker.find(task)
    put(broker)


def test_no_retry(server: Server, open_redis: Open) -> None:
    """``retry=no``: the first failure is told at once. A connection that was closed while idle is none."""
    broker = open_redis(server.url(retry="no"), timeout=30)
    put(broker)
    server.restart()
    put(broker)
    server.kill()
    with within(SOON), pytest.raises(BrokerUnreachable):
        put(broker)
    with within(SOON), pytest.raises(BrokerUnreachable):
        broker.wait("task", 10)


def test_a_server_that_comes_back_within_the_timeout(server: Server, open_redis: Open) -> None:
    """A producer notices nothing but the delay."""
    broker = open_redis(server.url(), timeout=20)
    put(broker)
    server.kill()
    producer = threading.Thread(target=lambda: put(broker))
    producer.start()
    server.start()
    producer.join()
    assert broker.depth().queued == 2


def test_stopped(server: Server, open_redis: Open) -> None:
    """A server that answers nothing costs a producer, a child and a waiter their timeout and no more."""
    broker = attached(open_redis(server.url(), timeout=1))
    (task,) = put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.pause()
    with within(1 + SOON), pytest.raises(BrokerUnreachable, match="did not answer in time"):
        put(broker)
    with within(1 + SOON), pytest.raises(BrokerUnreachable, match="did not answer in time"):
        broker.settle([done(held)], 0, 2)
    with within(1 + SOON), pytest.raises(BrokerUnreachable):
        broker.resume()
    server.go_on()
    assert broker.resume() in ([], places([held]))  # the server may have read the settle
    assert broker.find(task)


# ---- an answer that is lost


def test_a_lost_answer_of_an_enqueue(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """It is repeated with its id: stored once, and told as new, since it was."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)))
    (known,) = put(broker)
    proxy.lose_answer(sha("enqueue"))
    new = item()
    assert broker.enqueue([new]) == [True]
    assert proxy.seen == 1
    assert broker.depth().queued == 2
    assert broker.enqueue([new, item(known)]) == [False, False]


def test_a_lost_answer_of_a_refusal(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """A message whose unique key is another's is not taken for new; the others are."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)))
    holder, refused = (item()._replace(unique=Unique("key")) for _ in range(2))
    broker.enqueue([holder])
    proxy.lose_answer(sha("enqueue"))
    assert broker.enqueue([item(), refused, item()._replace(unique=Unique("other"))]) == [True, False, True]
    assert proxy.seen == 1


def test_a_lost_answer_of_a_retry(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """It is repeated under its name: done once, and told as done."""
    broker = attached(open_redis(server.url().replace(str(server.port), str(proxy.port))))
    assert not broker.retry(item())  # the server has read the script
    (task,) = put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    broker.settle([done(held)], 0, 2)
    proxy.lose_answer(sha("retry"))
    assert broker.retry(item(task))
    assert proxy.seen == 1
    assert broker.depth().queued == 1
    assert not broker.retry(item(task))


def test_a_call_is_carried_out_once(server: Server, open_redis: Open) -> None:
    """Also when its task has ended meanwhile and left no record, so that its id is known no more."""
    broker = attached(open_redis(server.url()))
    call = broker._storing._begin([item("task")])
    assert broker._storing._finish(call) == [True]
    (held,) = broker.settle([], 1, 1).deliveries
    broker.settle([Outcome(held, TaskState.SUCCEEDED)], 0, 2)
    assert broker._storing._finish(call) == [True]
    assert broker.depth().queued == 0


def test_a_call_made_again_after_its_error_is_the_same_call(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """The caller has its error, the request comes late, the task ends without a record: the caller's second try with
    the same id finds the first one carried out."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)) + "?retry=no")
    child = attached(open_redis(server.url()))
    put(broker)  # the server knows the script
    proxy.lose_answer(sha("enqueue"))
    with pytest.raises(BrokerUnreachable):
        broker.enqueue([item("task")])
    until(lambda: child.depth().queued == 2, "the request has come")
    child.settle([Outcome(held, TaskState.SUCCEEDED) for held in child.settle([], 2, 1).deliveries], 0, 2)
    assert broker.enqueue([item("task")]) == [True]
    assert broker.depth().queued == 0


@pytest.mark.parametrize("refused", range(4))
def test_a_batch_that_is_refused_is_not_taken_for_stored(server: Server, open_redis: Open, refused: int) -> None:
    """Batches are sent before the one before them is answered: one that is refused, while the next is taken, is
    enqueued again or raised, and never told as stored."""
    broker = open_redis(server.url())
    batches = [[item() for _ in range(3)] for _ in range(6)]
    stored: list[str] = []

    def made() -> Iterator[list[Enqueue]]:
        for number, batch in enumerate(batches):
            if number == refused:
                server.call("CONFIG", "SET", "maxmemory", "1mb")
            elif number == refused + 1:
                server.call("CONFIG", "SET", "maxmemory", "0")
            yield batch

    with contextlib.suppress(BrokerFull):
        broker.enqueue_batches(made(), lambda batch: stored.extend(each.id for each in batch))
    server.call("CONFIG", "SET", "maxmemory", "0")
    assert all(broker.find(task) for task in stored)
    assert len(stored) >= 3 * refused


def test_many_batches_fail_within_one_timeout(server: Server, open_redis: Open) -> None:
    """Also if the server stops answering in their middle."""
    broker = open_redis(server.url(), timeout=1)

    def made() -> Iterator[list[Enqueue]]:
        for number in range(6):
            if number == 3:
                server.pause()
            yield [item()]

    with within(2 + SOON), pytest.raises(BrokerUnreachable):
        broker.enqueue_batches(made(), lambda _: None)
    server.go_on()


def test_a_wait_ends_though_the_server_does_not_answer(server: Server, open_redis: Open) -> None:
    """Its own timeout, then the broker's: no more, wherever the server stopped."""
    broker = open_redis(server.url(), timeout=1)
    (task,) = put(broker)
    pause = threading.Timer(0.3, server.pause)
    pause.start()
    with within(1 + 1 + SOON), pytest.raises(BrokerUnreachable):
        broker.wait(task, 1)
    pause.join()
    server.go_on()


def test_a_refused_connection_makes_nothing_new(server: Server, open_redis: Open) -> None:
    """A repetition whose first try was never sent says of a known id that it is known."""
    broker = open_redis(server.url(), timeout=20)
    (known,) = put(broker)
    server.kill()
    told: list[list[bool]] = []
    producer = threading.Thread(target=lambda: told.append(broker.enqueue([item(known)])))
    producer.start()
    server.start()
    producer.join()
    assert told == [[False]]


def test_a_lost_answer_of_a_cancel(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """It was this call that cancelled it, and it says so."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)))
    (task,) = put(broker)
    proxy.lose_answer(sha("cancel"))
    assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b"cancelled"))
    assert proxy.seen == 1
    found = broker.find(task)
    assert found is not None
    assert found.state is TaskState.CANCELLED


def test_a_lost_answer_of_a_submit(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """The child is told that it is not known; ``resume`` says what it holds: the end counted, the reserve was made."""
    broker = attached(open_redis(server.url().replace(str(server.port), str(proxy.port))))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    proxy.lose_answer(sha("settle"))
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    with pytest.raises(BrokerUnreachable, match="nothing that was sent will be answered"):
        broker.answer()
    assert broker.resume() == [(2, 0)]
    settled = broker.settle([done(held)], 0, 3)
    assert settled.stale == 1
    found = [broker.find(task) for task in (first, second)]
    assert [each and each.state for each in found] == [TaskState.SUCCEEDED, TaskState.RESERVED]


def test_a_request_that_arrives_after_the_resume(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """What a cut connection still brings is of an older epoch: it neither ends nor reserves anything."""
    broker = attached(open_redis(server.url().replace(str(server.port), str(proxy.port))))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    proxy.delay(sha("settle"))
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    assert broker.resume() == [(1, 0)]
    assert proxy.deliver() == b"$-1\r\n"
    assert broker.resume() == [(1, 0)]
    found = [broker.find(task) for task in (first, second)]
    assert [each and each.state for each in found] == [TaskState.RESERVED, TaskState.QUEUED]
    assert broker.settle([done(held)], 1, 3).stale == 0


def test_a_release_that_arrives_after_the_resume(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """The same for what gives back: the child may run it meanwhile."""
    broker = attached(open_redis(server.url().replace(str(server.port), str(proxy.port))))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    assert broker.release([]) == 0  # the server knows the script from now on
    proxy.delay(sha("release"))
    with pytest.raises(BrokerUnreachable):
        broker.release([held])
    assert broker.resume() == [(1, 0)]
    assert proxy.deliver() == b"$-1\r\n"
    assert broker.depth().reserved == 1


# ---- a server that died


def test_killed_with_its_log(server: Server, open_redis: Open) -> None:
    """What it answered for is there again, and the owner too: it goes on where it was."""
    broker = attached(open_redis(server.url()))
    wanted = put(broker, 3)
    (held,) = broker.settle([], 1, 1).deliveries
    server.restart()
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    assert broker.resume() == [(1, 0)]
    (following,) = broker.settle([done(held)], 1, 3).deliveries
    assert [held.task_id, following.task_id] == wanted[:2]
    assert broker.depth()[:3] == (1, 0, 1)
    assert broker.renew("inc") == {"inc": 1}


def test_restarted_empty(own_servers: Servers, open_redis: Open) -> None:
    """Nobody is known there: every word of the node is refused as a buried one's is, until it joins anew."""
    server = own_servers.server()
    broker = attached(open_redis(server.url()))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.restart()
    with pytest.raises(Fenced):
        broker.resume()
    with pytest.raises(Fenced):
        broker.settle([done(held)], 1, 2)
    with pytest.raises(Fenced):
        broker.attach(Owner("inc", 0, 2))
    with pytest.raises(Fenced):
        broker.renew("inc")
    assert broker.depth() == (0, 0, 0, 0, None)
    attached(broker)


def test_restarted_from_an_older_log(server: Server, open_redis: Open, tmp_path: Path) -> None:
    """What was done since is undone: ``resume`` says that the settled one is held again and that the later one is not,
    the settle sent again counts, and the later enqueue is gone (docs: what a server's loss of data loses)."""
    broker = attached(open_redis(server.url()))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    copy = tmp_path / "aof"
    log = server.folder / "appendonlydir"
    shutil.copytree(log, copy)
    (later,) = broker.settle([done(held)], 1, 2).deliveries
    (lost,) = put(broker)
    server.kill()
    shutil.rmtree(log)
    shutil.copytree(copy, log)
    server.start()
    assert broker.resume() == [(1, 0)]
    settled = broker.settle([done(held), done(later)], 0, 3)
    assert settled.stale == 1
    found = [broker.find(task) for task in (first, second, lost)]
    assert [each and each.state for each in found] == [TaskState.SUCCEEDED, TaskState.QUEUED, None]
