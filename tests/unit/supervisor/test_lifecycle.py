"""A child's state: every move of the table can be made, no other one, and what a state means follows from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from itertools import product

import pytest

from poolrt.posix.unix_sockets import seqpacket_pair
from poolrt.states import CHILD_MOVES, ChildState, ImpossibleMove
from poolrt.supervisor import lifecycle
from poolrt.supervisor.lifecycle import Child

MOVES = [(before, after) for before, afters in CHILD_MOVES.items() for after in sorted(afters)]
OTHERS = [pair for pair in product(ChildState, ChildState) if pair not in MOVES]


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_moves_of_the_table(before: ChildState, after: ChildState, make_child: Callable[..., Child]) -> None:
    """Every move of the table is made without a word."""
    child = make_child(before)
    child.move(after)
    assert child.state is after


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_other_moves_raise_in_tests(before: ChildState, after: ChildState, make_child: Callable[..., Child]) -> None:
    """A move the table does not have is refused, naming the child, and changes nothing."""
    child = make_child(before)
    with pytest.raises(ImpossibleMove, match=rf"<child 0\.4 pid=- {before}> cannot become {after}"):
        child.move(after)
    assert child.state is before


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_other_moves_are_logged_in_production(
    before: ChildState,
    after: ChildState,
    make_child: Callable[..., Child],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In production an impossible move is logged as impossible, and the supervisor goes on with what it was told."""
    monkeypatch.setattr(lifecycle, "STRICT", False)
    child = make_child(before)
    with caplog.at_level(logging.ERROR, "poolrt.supervisor"):
        child.move(after)
    assert child.state is after
    assert f"impossible: <child 0.4 pid=- {before}> becomes {after}" in caplog.text


@pytest.mark.parametrize("state", ChildState)
def test_a_child_works_or_waits_or_neither(state: ChildState, make_child: Callable[..., Child]) -> None:
    """A child fills a wanted place or is a standby, never both; a leaving, condemned or dead one is neither."""
    worker, standby = make_child(state), make_child(state, standby=True)
    coming = state in {ChildState.REQUESTED, ChildState.STARTING}
    assert (worker.working, worker.waiting) == (coming or state is ChildState.UP, False)
    assert (standby.working, standby.waiting) == (False, coming or state is ChildState.STANDBY)
    assert worker.alive is (state is not ChildState.DEAD)


def test_close_closes_once() -> None:
    """The pidfd and the lifeline are closed, and closing again is no error."""
    child = Child(0, 1, lifecycle.STEWARD, 0.0)
    child.pidfd = os.open(os.devnull, os.O_RDONLY)
    child.lifeline, theirs = seqpacket_pair()
    child.pid = 42
    assert repr(child) == "<steward 0.1 pid=42 requested>"
    child.close()
    child.close()
    assert theirs.recv(1) == b""
    theirs.close()
