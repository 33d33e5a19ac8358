"""Async tasks are interrupted through their loop."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from poolrt.errors import SoftTimeLimitExceeded
from poolrt.shielding import shield
from poolrt.states import Interruption

BEFORE_S2 = 0.9  # seconds, on a busy machine

S0, S1, S2 = 0.0, 0.1, 1.0


def test_an_async_task_is_cancelled_through_its_loop(child, kick):
    """It sees CancelledError at its await, its ``finally: await`` ends whatever comes, and `cancelled` says why."""
    seen = []

    async def task():
        asyncio.get_running_loop().call_soon(kick, S0)
        try:
            await asyncio.sleep(60)
        finally:
            for stage in (S1, S2):
                kick(stage)
                await asyncio.sleep(0.001)
                seen.append(stage)

    with pytest.raises(asyncio.CancelledError):
        child.run_async(task())
    assert seen == [S1, S2]
    assert child.interrupter.cancelled is child.interrupter.raised is Interruption.SOFT_LIMIT
    assert child.run(lambda: child.interrupter.cancelled) is None


def test_an_idle_loop_wakes_up_for_it(real_child, signals):
    """A loop that waits in the kernel cancels its task within ms of the signal."""
    real_child.row.want(Interruption.STOP)
    began = time.monotonic()

    async def task():
        signals(0.02)
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        real_child.run_async(task())
    assert time.monotonic() - began < BEFORE_S2
    assert real_child.interrupter.cancelled is Interruption.STOP


def test_synchronous_code_in_an_async_task_is_cut_by_the_third_signal(child, kick):
    """A coroutine that blocks its loop gets the exception itself at S2, not before."""
    seen = []

    async def task():
        for stage in (S0, S1, S2):
            kick(stage)
            seen.append(stage)
        await asyncio.sleep(60)

    with pytest.raises(SoftTimeLimitExceeded):
        child.run_async(task())
    assert seen == [S0, S1]
    assert child.interrupter.raised is Interruption.SOFT_LIMIT
    assert child.interrupter.cancelled is None


def test_an_uncancelled_task_is_cancelled_again(child, kick):
    """One that took the cancellation back (``uncancel``) gets the next signal's."""
    seen = []

    async def task():
        while True:
            asyncio.get_running_loop().call_soon(kick, S1)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append(asyncio.current_task().uncancel())
                if len(seen) == 3:
                    raise

    with pytest.raises(asyncio.CancelledError):
        child.run_async(task())
    assert seen == [0, 0, 0]


def test_a_cancellation_on_its_way_does_not_hit_the_next_task(child, kick):
    """A task that ends before its loop can cancel it leaves nothing for the next one on that loop."""

    async def ends():
        kick(S0)

    async def next_one():
        for _ in range(5):
            await asyncio.sleep(0)
        return "done"

    loop = asyncio.new_event_loop()
    interrupter = child.interrupter

    def in_loop(coroutine):
        task = loop.create_task(coroutine)
        interrupter.entering_loop(loop, task)
        try:
            return loop.run_until_complete(task)
        finally:
            interrupter.leaving_loop()

    try:
        child.run(lambda: in_loop(ends()))
        child.row.sequence += 1
        assert child.run(lambda: in_loop(next_one())) == "done"
        assert interrupter.raised is None
    finally:
        loop.close()


def test_a_shield_holds_off_a_cancellation(child, kick):
    """Awaits inside a shield are not cut; the first one behind it is."""
    seen = []

    async def task():
        with shield():
            kick(S0)
            await asyncio.sleep(0.001)
            seen.append("inside")
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        child.run_async(task())
    assert seen == ["inside"]
    assert child.interrupter.cancelled is Interruption.SOFT_LIMIT


def test_a_loop_that_a_plain_task_runs_itself_ends_at_s2(real_child, signals):
    """``asyncio.run`` inside a plain task: the loop is cut in its wait, and asyncio cancels what runs on it."""
    seen = []

    async def main():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned")

    with pytest.raises(SoftTimeLimitExceeded):
        real_child.run(lambda: (signals(0.0, 0.1, 1.0), asyncio.run(main())))
    assert seen == ["cleaned"]


def test_a_shield_entered_before_the_loop_cancels(child, kick):
    """A cancellation on its way finds the task inside a shield: it waits for its end."""
    seen = []

    async def task():
        kick(S0)
        with shield():
            await asyncio.sleep(0.001)
            seen.append("inside")
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        child.run_async(task())
    assert seen == ["inside"]


def test_a_loop_that_works_is_not_cut(child, clock):
    """At S2 a signal that finds the loop's own code leaves it alone: the cancellation is next."""

    complaints = []

    async def task():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        loop.call_soon(signal.raise_signal, signal.SIGUSR2)
        loop.call_soon(setattr, clock, "now", clock.now + S2)
        loop.call_soon(signal.raise_signal, signal.SIGUSR2)
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        child.run_async(task())
    assert clock.now == 1000.0 + S2
    assert not complaints
    assert child.interrupter.cancelled is Interruption.SOFT_LIMIT


def test_a_task_that_was_left_unfinished_is_not_cancelled_later(child, kick):
    """A cancellation for a task whose loop was left is not counted as one of the run that is next."""
    loop = asyncio.new_event_loop()
    interrupter = child.interrupter
    left, other = loop.create_task(asyncio.sleep(60)), loop.create_task(asyncio.sleep(60))

    def leave():
        interrupter.entering_loop(loop, left)
        kick(S0)
        interrupter.leaving_loop()

    def run_other():
        interrupter.entering_loop(loop, other)
        kick(S0)
        try:
            loop.run_until_complete(other)
        finally:
            interrupter.leaving_loop()

    try:
        child.run(leave)
        child.row.sequence += 1
        child.row.want()
        with pytest.raises(asyncio.CancelledError):
            child.run(run_other)
        assert not left.done()
        left.cancel()
        loop.run_until_complete(asyncio.gather(left, return_exceptions=True))
    finally:
        loop.close()
