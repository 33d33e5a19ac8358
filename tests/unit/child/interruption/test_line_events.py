"""Whoever else looks at lines, a debugger or coverage, goes on doing so."""

from __future__ import annotations

import signal
import sys

import pytest

from poolrt.errors import SoftTimeLimitExceeded

S0, S1, S2 = 0.0, 0.1, 1.0


def test_a_tracer_is_put_back(child, kick):
    """A debugger or coverage sees lines again in the next run, and the same function is its tracer."""
    seen = []

    def tracer(frame, event, arg):
        seen.append(frame.f_code.co_name)
        return tracer

    def task():
        kick(S0)
        id(0)

    def harmless():
        id(0)

    former = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            child.run(task)
        child.row.sequence += 1
        assert sys.gettrace() is tracer
        del seen[:]
        child.run(harmless)
        assert "harmless" in seen
    finally:
        sys.settrace(former)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no sys.monitoring")
@pytest.mark.parametrize("tool_left", [True, False], ids=["a tool is free", "every tool is taken"])
def test_another_monitoring_tool_goes_on(child, clock, tool_left):
    """A tool with LINE events of its own on the same code sees every line; with every id taken, S1 does it alone."""
    monitoring = sys.monitoring
    seen = []

    def task():
        clock.now += signal.raise_signal(signal.SIGUSR2) or S1
        clock.now += signal.raise_signal(signal.SIGUSR2) or S1
        return id(0)

    ours = [tool for tool in range(6) if monitoring.get_tool(tool) is None]
    if tool_left:
        ours.remove(4)
    for tool in ours:
        monitoring.use_tool_id(tool, "other")
    try:
        monitoring.register_callback(ours[0], monitoring.events.LINE, lambda code, line: seen.append(line))
        monitoring.set_local_events(ours[0], task.__code__, monitoring.events.LINE)
        for _ in range(2):
            with pytest.raises(SoftTimeLimitExceeded):
                child.run(task)
            child.row.sequence += 1
            child.row.want()
        first = task.__code__.co_firstlineno
        # The tool with the highest number is asked first: the line before which it raises is told to no other.
        assert seen == ([first + 1] if tool_left else [first + 1, first + 2]) * 2
        assert (clock.now - 1000.0) == pytest.approx(2 * S1)
    finally:
        monitoring.set_local_events(ours[0], task.__code__, 0)
        monitoring.register_callback(ours[0], monitoring.events.LINE, None)
        for tool in ours:
            monitoring.free_tool_id(tool)
