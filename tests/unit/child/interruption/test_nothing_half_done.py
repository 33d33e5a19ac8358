"""What an interruption never cuts in half: acquisitions, statements, cleanups."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading

import pytest

from poolrt.errors import SoftTimeLimitExceeded

S0, S1, S2 = 0.0, 0.1, 1.0


def test_an_acquisition_is_followed_by_its_try(child, line_raised, kick):
    """Raised neither between ``acquire()`` and ``try``, nor on the line of the ``try``."""
    lock = threading.Lock()

    def task():
        (kick(S0), lock.acquire())
        try:
            id(0)
        finally:
            lock.release()

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task)
    assert not lock.locked()
    assert line_raised(caught.value) == "id(0)"


def test_an_acquisition_is_followed_by_its_with(child, line_raised, kick):
    """Raised neither between an acquisition and the ``with`` that will give it back, nor on its line."""
    given_back = []

    def task():
        thing = (contextlib.ExitStack(), kick(S0))[0]
        thing.callback(given_back.append, 1)
        with thing:
            id(0)

    task_of_two = task

    def task():
        thing = (contextlib.ExitStack(), kick(S0))[0]
        with thing:
            thing.callback(given_back.append, 2)

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task)
    assert line_raised(caught.value) == "thing.callback(given_back.append, 2)"
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task_of_two)
    assert line_raised(caught.value) == "thing.callback(given_back.append, 1)"


def test_an_expression_of_several_lines_is_not_left_half_evaluated(child, kick):
    """Raised before a statement, not before a later line of one that has taken something already."""
    tokens = queue.SimpleQueue()
    for i in range(2):
        tokens.put(i)

    def task():
        taken = (
            tokens.get(),
            kick(S0),
            tokens.get(),
        )
        try:
            id(0)
        finally:
            for token in (taken[0], taken[2]):
                tokens.put(token)

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert tokens.qsize() == 2


@pytest.mark.parametrize("raising", [False, True], ids=["returning", "raising"])
def test_a_finally_that_runs_is_finished(child, kick, raising):
    """A cleanup that was running when the signal came, for whatever reason, is finished, up to S1."""
    steps = []

    def task():
        try:
            if raising:
                raise ValueError
        finally:
            steps.append(kick(S0))
            for stage in (S0, S1):
                kick(stage)
                steps.append(None)
        steps.append("next")

    with pytest.raises(ValueError if raising else SoftTimeLimitExceeded):
        child.run(task)
    assert steps == [None] * 3


def test_the_end_of_a_with_is_part_of_it(child, kick):
    """A signal in the last statement of a ``with`` block is raised after its ``__exit__``, or inside; never between."""
    seen = []

    class Held:
        def __enter__(self):
            seen.append("in")

        def __exit__(self, *_):
            seen.append("out")
            kick(S0)
            seen.append("out whole")

    def task():
        for _ in range(2):
            with Held():
                kick(S0)
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen in (["in", "out", "out whole"], ["in", "out", "out whole"] * 2)


def test_a_generator_is_judged_by_who_calls_it_now(child, kick, library):
    """User code that was waited for while user code called it is left alone once a library does."""
    seen = []

    def numbers():
        kick(S0) or (yield 1)
        seen.append("in the library")
        yield 2

    def task():
        generator = iter(numbers())
        library.call((next(generator), generator.__next__)[1])
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert (seen, library.after) == (["in the library"], ["f"])


@pytest.mark.parametrize("name", ["__enter__", "__exit__", "__del__"])
def test_functions_that_acquire_or_release_are_not_cut(child, kick, name):
    """Whoever calls them: at S0 they end whole."""
    seen = []

    def half(*_):
        kick(S0)
        seen.append("whole")

    half.__code__ = half.__code__.replace(co_name=name)

    def task():
        half()
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["whole"]


def test_a_cleanup_is_not_cut_where_it_waits(child, clock):
    """A ``finally`` is stuck, in its own frame, when the second signal comes: left alone until the third."""
    seen = []

    def task():
        try:
            id(0)
        finally:
            for clock.now in (1000.0 + S0, 1000.0 + S1, 1000.0 + S2):
                seen.append(signal.raise_signal(signal.SIGUSR2))

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert len(seen) == 2


def test_what_a_cleanup_calls_is_part_of_it(child, kick):
    """User code called from a ``finally`` is not cut at S0, nor by a signal that finds it waiting."""
    seen = []

    def cleanup():
        kick(S0)
        seen.append("cleaned")
        kick(S1)
        seen.append("up")

    def task():
        try:
            id(0)
        finally:
            cleanup()
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["cleaned", "up"]
