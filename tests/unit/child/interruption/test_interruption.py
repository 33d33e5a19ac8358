"""When an interruption is raised in a task, and when it is not.

``kick(waited)`` is a signal of the supervisor, handled at once, ``waited`` seconds after the first one on a fake clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import weakref

import pytest

from poolrt.child.interruption import exception_for
from poolrt.errors import Cancelled, SoftTimeLimitExceeded, TaskInterrupted
from poolrt.states import Interruption

BEFORE_S2 = 0.9  # how long S1 may take on a busy machine; stress/chaos/soft_delivery.py measures it

S0, S1, S2 = 0.0, 0.1, 1.0


def test_it_is_raised_before_the_next_statement(child, line_raised, kick):
    """S0: the statement in hand ends, the next one does not begin, and `raised` says why until the next run."""
    seen = []

    def task():
        seen.append(kick())
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task)
    assert (seen, line_raised(caught.value)) == ([None], 'seen.append("next")')
    assert child.interrupter.raised is Interruption.SOFT_LIMIT
    assert child.run(lambda: child.interrupter.raised) is None


@pytest.mark.parametrize(
    ("reason", "kind"), [(Interruption.STOP, TaskInterrupted), (Interruption.CANCEL, Cancelled)], ids=["stop", "cancel"]
)
def test_each_reason_has_its_exception(child, kick, reason, kind):
    """The row's reason decides which exception is raised."""
    child.row.want(reason)

    def task():
        kick()
        id(0)

    with pytest.raises(kind):
        child.run(task)
    assert child.interrupter.raised is reason
    assert isinstance(exception_for(reason), kind)


def test_while_a_cancel_is_cleaned_up_after_it_does_not_come_again(child, kick):
    """Its `finally` runs to its end, whatever the stage."""
    child.row.want(Interruption.CANCEL)
    cleaned = []

    def task():
        try:
            kick()
            id(0)
        finally:
            kick()
            child.interrupter._clock.now += 60
            kick()
            cleaned.append("all")

    with pytest.raises(Cancelled):
        child.run(task)
    assert cleaned == ["all"]


def test_it_is_cancelled_from_when_it_was_to_be_told(child, kick):
    """Also if it ends just before; the next run is not, nor one that was interrupted for another reason."""
    assert not child.interrupter.is_cancelled
    child.row.want(Interruption.SOFT_LIMIT)
    assert not child.interrupter.is_cancelled
    child.row.want(Interruption.CANCEL)
    assert child.interrupter.is_cancelled
    child.row.sequence += 1
    assert not child.interrupter.is_cancelled


@pytest.mark.parametrize("cell", [6 << 8 | 1, 8 << 8 | 1, 7 << 8 | 0, 7 << 8 | 9, 0, 2**64 - 1])
def test_what_is_meant_for_another_run_is_ignored(child, kick, cell):
    """A stale sequence, one to come, no reason and an unknown one do nothing, at any stage."""
    child.row.interruption = cell

    def task():
        for stage in (S0, S1, S2):
            kick(stage)
        return "done"

    assert child.run(task) == "done"
    assert child.interrupter.raised is None


def test_nothing_is_raised_outside_the_window(child, kick):
    """Before `open`, after `close`, and in what is done with the result, user code included."""
    encoded = []

    def encode():
        for stage in (S0, S1, S2):
            kick(stage)
            encoded.append(stage)

    encode()
    assert child.run(lambda: kick(S0), encode) is None
    encode()
    assert encoded == [S0, S1, S2] * 3
    assert child.interrupter.raised is None


def test_a_run_that_ends_leaves_nothing_to_the_next(child, kick):
    """What was waited for in one run is not raised in the next, though it runs the same lines."""

    def task():
        for _ in range(2):
            id(0)
            if calls:
                continue
            return kick()
        return "done"

    calls = []
    child.run(task)
    calls.append(1)
    child.row.sequence += 1
    assert child.run(task) == "done"


def test_except_exception_does_not_swallow_it(child, kick):
    """A loop that catches every Exception ends."""

    def task():
        while True:
            try:
                kick()
                raise ValueError
            except Exception:
                continue

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)


def test_the_callers_next_statement_does(child, kick):
    """A function that ends without another statement is left, and its caller is cut."""
    seen = []

    def inner():
        return kick()

    def task():
        seen.append(inner())
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == [None]


# ---- stages


def sleeps():
    time.sleep(60)


def calls_short_c_functions():
    while True:
        id(0)


def goes_round_one_expression():
    return [None for _ in iter(int, 1)]


def hashes():
    while True:
        hashlib.sha256(bytes(1000)).digest()


def loops():
    while True:
        pass


@pytest.mark.parametrize(
    "task", [sleeps, calls_short_c_functions, goes_round_one_expression, hashes, loops], ids=lambda task: task.__name__
)
def test_what_comes_to_no_statement_is_cut_by_the_second_signal(real_child, signals, task):
    """S1: a sleep, a loop or a comprehension on one line, C calls: each ends with the second signal."""
    began = time.monotonic()
    with pytest.raises(SoftTimeLimitExceeded):
        # One more than the supervisor's: on a busy machine the first may come before the task's own frame is there.
        real_child.run(lambda: (signals(0.05, 0.15, 0.25, 1.05), task()))
    assert time.monotonic() - began < BEFORE_S2


def test_only_a_frame_that_was_waited_for_is_cut_where_it_stands(child, line_raised, kick):
    """S1 in a frame that the first signal did not see waits for its next statement: it may have just acquired."""
    lock = threading.Lock()

    def locked():
        (lock.acquire(), kick(S1))
        try:
            return id("held")
        finally:
            lock.release()

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(lambda: (kick(S0), locked()))
    assert not lock.locked()
    assert line_raised(caught.value) == 'return id("held")'


def test_a_try_without_a_body_is_left_whole(child, line_raised, kick):
    """The compiler drops the handler of a ``try`` that holds nothing: nothing is raised before its ``finally``."""
    lock = threading.Lock()

    def task():
        (kick(S0), lock.acquire())
        try:
            pass
        finally:
            lock.release()
        id("next")

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task)
    assert not lock.locked()
    assert line_raised(caught.value) == 'id("next")'


def test_a_library_is_cut_by_the_third_signal_only(child, library):
    """S0 and S1 leave a protected module alone, S2 does not."""
    with pytest.raises(SoftTimeLimitExceeded):
        child.run(lambda: library.kicked(S0, S1, S2))
    assert library.after == [S0, S1]


def test_what_a_library_has_in_hand_is_finished(child, line_raised, library):
    """User code that called the library is cut when it is back; user code that the library called is not."""
    seen = []

    def callback():
        library.kicked(S0)
        seen.append("called back")

    def task():
        library.call(callback)
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        child.run(task)
    assert (seen, library.after) == (["called back"], [S0, "f"])
    assert line_raised(caught.value) == 'seen.append("next")'


def test_another_reason_begins_with_the_first_stage(child, kick, library):
    """A stop long after a soft limit that the task has lived through is delivered as gently."""

    def task():
        try:
            kick(S0)
            id(0)
        except SoftTimeLimitExceeded:
            pass
        child.row.want(Interruption.STOP)
        library.kicked(30.0)
        id(0)

    with pytest.raises(TaskInterrupted):
        child.run(task)
    assert library.after == [30.0]


def test_a_decorated_task_is_user_code(child, kick):
    """A function under a context manager's decorator (Django's ``atomic``) is cut at S0, its own frames and all."""

    @contextlib.contextmanager
    def transaction():
        try:
            yield
        finally:
            seen.append("rolled back")

    @transaction()
    def task():
        kick(S0)
        seen.append("next")

    seen = []
    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["rolled back"]


# ---- an earlier one


def test_cleanup_after_an_interruption_is_not_cut(child, kick):
    """``finally``, ``__exit__`` and ``except`` that it has caused end whole, at any stage, with errors of their own."""
    steps = []

    class Held:
        def __enter__(self):
            pass

        def __exit__(self, *_):
            kick(S2)
            steps.append("exit")

    def task():
        try:
            with Held():
                try:
                    kick(S0)
                    steps.append("cut")
                finally:
                    try:
                        raise ValueError
                    except ValueError:
                        kick(S1)
                        steps.append("in except of finally")
                    kick(S2)
                    steps.append("finally")
        except SoftTimeLimitExceeded:
            for _ in range(3):
                kick(S2)
            return "partial"

    assert child.run(task) == "partial"
    assert steps == ["in except of finally", "finally", "exit"]


def test_a_swallowed_one_comes_again_with_the_next_signal(child, kick):
    """It is not raised again by itself, but by each signal that finds it gone; S0, not S2, if cleanup took long."""
    seen = []

    def task():
        for _ in range(3):
            try:
                kick(S0)
                seen.append("never")
            except BaseException:
                kick(S2)
            seen.append("swallowed")
        (kick(S2 + 0.02), seen.append("the statement ends"))
        seen.append("never")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["swallowed"] * 3 + ["the statement ends"]


def test_a_ring_of_exceptions_ends(child, kick):
    """A task that made its exceptions a ring cannot hang the handler."""

    def task():
        first, second = ValueError(), KeyError()
        try:
            raise first
        except ValueError:
            first.__context__, second.__context__ = second, first
            kick(S0)
            id(0)

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)


def test_our_own_code_is_not_cut(child, ours):
    """A signal that finds this package's own handler or tracer running leaves it alone, at any stage."""
    child.run(lambda: ours.kicked(S0, S1, S2))
    assert ours.after == [S0, S1, S2]


def test_nothing_of_a_task_is_kept_alive(child, kick):
    """When a run has ended its frames, and what they held, are gone."""

    class Thing:
        pass

    def task():
        thing = Thing()
        kept.append(weakref.ref(thing))
        return kick(S0)

    kept = []
    child.run(task)
    assert kept[0]() is None
