"""`poolrt.shield()` in a task."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from poolrt.errors import SoftTimeLimitExceeded
from poolrt.shielding import Shield, shield

S0, S1, S2 = 0.0, 0.1, 1.0


def test_a_shield_holds_off_until_it_is_left(child, kick):
    """Whatever the stage, the block ends; then it is raised, before the next statement, nested shields counted."""
    seen = []

    def task():
        try:
            with shield():
                with shield():
                    for stage in (S0, S1, S2):
                        kick(stage)
                    seen.append("inner")
                seen.append("outer")
        except SoftTimeLimitExceeded:
            seen.append("caught")

    child.run(task)
    assert seen == ["inner", "outer", "caught"]


def test_a_shield_entered_later_holds_off_what_was_waiting(child, kick):
    """A signal that waits for a statement finds the shield's block instead: it waits for its end."""
    seen = []

    def task():
        (kick(S0), shield().__enter__())
        seen.append("inside")
        shield().__exit__()
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["inside"]


def test_a_shield_inside_a_library_raises_outside(child, library, kick):
    """poolrt's own shield in a hook that a library called: the library ends first."""
    seen = []

    def hook():
        with shield():
            kick(S0)
        seen.append("hook")

    def task():
        library.call(hook)
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert (seen, library.after) == (["hook"], ["f"])


def test_a_shield_in_a_cleanup_of_an_interruption_does_not_cut_it(child, kick):
    """What came in a shield while an interruption was being cleaned up is not raised at its end."""
    seen = []

    def task():
        try:
            kick(S0)
            id(0)
        finally:
            with shield():
                kick(S1)
            seen.append("cleaned")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert seen == ["cleaned"]


def test_a_shield_that_is_never_left_ends_with_its_run(child, kick):
    """A task that enters a shield for ever is not interrupted, the next one is; a late exit does no harm."""

    def task():
        kick(S0)
        return "done"

    leaked = shield()
    assert child.run(lambda: (leaked.__enter__(), task())[1]) == "done"
    child.run(leaked.__enter__)
    for _ in range(2):
        child.row.sequence += 1
        child.row.want()
        with pytest.raises(SoftTimeLimitExceeded):
            child.run(task)
        leaked.__exit__()


def test_a_shield_in_another_thread_is_none(child, kick):
    """A thread of the task neither holds off the main thread's interruption nor receives it."""
    entered, leave = threading.Event(), threading.Event()
    errors, seen = [], []

    def other():
        try:
            with shield():
                entered.set()
                leave.wait(5)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(5)

    def task():
        kick(S0)
        id(0)

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)

    def shielded():
        with shield():
            leave.set()
            thread.join()
            kick(S0)
            seen.append("inside")
        seen.append("next")

    child.row.sequence += 1
    child.row.want()
    with pytest.raises(SoftTimeLimitExceeded):
        child.run(shielded)
    assert (seen, errors) == (["inside"], [])


@pytest.mark.parametrize("first", ["poolrt.child.interruption", "poolrt"])
def test_the_name_works_where_its_module_was_imported_first(first):
    """``poolrt.shield()`` and ``from poolrt import shield`` in a child, which has imported the module of that name."""
    text = f"import {first}, poolrt\nwith poolrt.shield(): pass\nfrom poolrt import shield\nwith shield(): print(1)"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout == b"1\n"


def test_a_shield_outside_a_task_does_nothing():
    """No Interrupter is needed."""
    with Shield() as one, one:
        assert one.depth == 2
    assert one.depth == 0


def test_a_library_that_shields_itself_ends_first(child, library):
    """poolrt's own calls from a task: raised in the task behind the call, not inside it."""
    seen = []

    def task():
        library.shielded(shield)
        seen.append("next")

    with pytest.raises(SoftTimeLimitExceeded):
        child.run(task)
    assert (seen, library.after) == ([], ["shield"])
