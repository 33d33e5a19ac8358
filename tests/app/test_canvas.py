"""Workflows, end to end: children enqueue what follows, and whoever waits gets values and failures."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from poolrt import ChordError, TaskState, chain, chord, group
from poolrt.app.canvas.found import tree_of_root
from poolrt.errors import TaskCancelled, TaskFailed

SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("pool")


def test_chains(shop: Any) -> None:
    """The value of each step goes before the arguments of the next."""
    result = (shop.add.s(1, 2) | shop.add.s(10) | shop.same.s()).delay()
    assert result.get(timeout=SECONDS) == 13
    assert result.parent.parent.get(timeout=SECONDS) == 3


def test_steps_may_be_waited_for_before_they_are_enqueued(shop: Any) -> None:
    """Any step's result, also one in the middle."""
    result = chain(shop.add.s(0, 1), *[shop.add.s(1) for _ in range(50)]).delay()
    middle = result.parent.parent.parent
    assert middle.get(timeout=SECONDS) == 48
    assert result.get(timeout=SECONDS) == 51


def test_groups_and_chords(shop: Any) -> None:
    """Results in order, nested ones too; a value that only pickle carries goes on as well."""
    assert group(shop.add.s(i, i) for i in range(5)).delay().get(timeout=SECONDS) == [0, 2, 4, 6, 8]
    inner = chord([shop.same.s(1), shop.same.s(2)], shop.same.s())
    result = (group(inner, shop.same.s({3, 4}) | shop.same.s(), group(shop.same.s(5))) | shop.same.s()).delay()
    assert result.get(timeout=SECONDS) == [[1, 2], {3, 4}, 5]
    assert (shop.same.s(1) | group(shop.add.s(1), shop.add.s(2))).delay().get(timeout=SECONDS) == [2, 3]


def test_maps_and_chunks(shop: Any) -> None:
    """The built-in tasks are known to every worker."""
    assert shop.same.map([1, 2]).delay().get(timeout=SECONDS) == [1, 2]
    assert shop.add.chunks([(1, 2), (3, 4), (5, 6)], 2).delay().get(timeout=SECONDS) == [[3, 7], [11]]
    assert shop.same.each(range(3)).delay().get(timeout=SECONDS) == [0, 1, 2]


def test_failures_are_told_at_once(shop: Any) -> None:
    """Of a step to the chain's end, of a member to the body's."""
    began = time.monotonic()
    with pytest.raises(ValueError, match="the text"):
        (shop.add.s(1, 2) | shop.fail.si("value") | shop.same.s() | shop.same.s()).delay().get(timeout=SECONDS)
    late = shop.same.s(1).set(countdown=60)
    result = (group(shop.fail.s("value"), late) | shop.same.s() | shop.same.s()).delay()
    with pytest.raises(ChordError, match=r"member 0 .*ValueError: the text"):
        result.get(timeout=SECONDS)
    assert time.monotonic() - began < SECONDS
    assert result.cancel()


def test_errors_may_be_collected(shop: Any) -> None:
    """They reach the body as exceptions."""
    result = chord([shop.fail.s("value"), shop.same.s(2)], shop.same.s(), collect_errors=True).delay()
    error, value = result.get(timeout=SECONDS)
    assert (type(error), value) == (ValueError, 2)


def test_callbacks(shop: Any) -> None:
    """A link gets the value, an errback the id of what failed."""
    linked = shop.add.s(1, 2).link(shop.add.s(10)).delay()
    assert linked.get(timeout=SECONDS) == 3
    assert linked.children[0].get(timeout=SECONDS) == 13
    failed = (shop.fail.s("value") | shop.same.s()).link_error(shop.same.s()).delay()
    with pytest.raises((ValueError, TaskFailed)):
        failed.get(timeout=SECONDS)
    assert shop.app.result(f"{failed.id}:c0").get(timeout=SECONDS) == f"{failed.id}:0"


def test_cancel_and_tree(shop: Any) -> None:
    """Of a workflow that waits: all of it ends; the tree says so, here and from the id alone."""
    result = (shop.add.s(1, 2).set(countdown=60) | group(shop.same.s(), shop.same.s()) | shop.same.s()).delay()
    assert result.tree().counts() == {"delayed": 1, "planned": 3}
    assert result.state is TaskState.PLANNED
    assert {each.state for each in tree_of_root(shop.app.broker, result.id).calls()} == {"delayed", "planned"}
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout=SECONDS)
    assert result.tree().counts() == {"cancelled": 4}


def test_results_may_be_awaited(shop: Any) -> None:
    """Those of chains and groups, none of which exists when the wait begins."""

    async def wait() -> Any:
        return await asyncio.gather((shop.add.s(1, 2) | shop.add.s(3)).delay().aget(SECONDS), group_of().aget(SECONDS))

    def group_of() -> Any:
        return (shop.add.s(1, 2) | group(shop.add.s(1), shop.same.s() | shop.same.s())).delay()

    assert asyncio.run(wait()) == [6, [4, 3]]
    for thread in threading.enumerate():  # those that waited: they use the broker until they end
        if thread.name.startswith("poolrt-"):
            thread.join()
