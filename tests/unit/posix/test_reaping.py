from __future__ import annotations

import os
import signal

import pytest

from poolrt.posix import reaping


@pytest.fixture
def dead(spawn_quiet):
    """``dead(code)``: a child that has left with this code (or signal, if negative) and is not reaped."""
    pids = []

    def make(code):
        pid = spawn_quiet()
        if pid == 0:
            if code < 0:
                os.kill(os.getpid(), -code)
            os._exit(code)
        pids.append(pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    yield make
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def test_without_children_nothing_is_yielded(in_child):
    """It may be called at any time, also by a process that has none."""
    assert in_child(lambda: list(reaping.reap_any(()))) == []


def test_known_and_strays_are_reaped_with_their_codes(dead, fork):
    """Every dead child is yielded once with its exact status, and a living one is left alone."""
    living = fork(lambda talk: talk.hear())
    expected = {dead(0): 0, dead(3): 3, dead(-signal.SIGKILL): -signal.SIGKILL, dead(-signal.SIGABRT): -signal.SIGABRT}
    known = list(expected)[:2]
    found = list(reaping.reap_any([*known, living.pid]))
    assert {pid: status for pid, status, _ in found} == expected
    assert all(peak > 1 << 20 for _, _, peak in found), "a Python process has megabytes"
    assert list(reaping.reap_any(known)) == []
    assert os.waitpid(living.pid, os.WNOHANG) == (0, 0)


def test_stopping_early_leaves_the_rest_for_later(dead):
    """A child that was not yielded was not reaped."""
    pids = {dead(0), dead(1), dead(2)}
    first = next(reaping.reap_any(pids))
    rest = list(reaping.reap_any(pids))
    assert {first[0], *(pid for pid, _, _ in rest)} == pids


def test_a_known_child_reaped_by_others_in_between_is_still_told(dead, monkeypatch):
    """When other code takes the status between peek and wait, a known child's end is yielded, a stray's is not."""
    known, stray = dead(5), dead(6)
    real = os.wait4

    def stolen(pid, options):
        real(pid, options)
        return real(pid, options)

    monkeypatch.setattr(os, "wait4", stolen)
    found = list(reaping.reap_any([known]))
    monkeypatch.undo()
    assert found == [(known, 5, 0)]
    with pytest.raises(ChildProcessError):
        os.waitpid(stray, 0)


def test_without_waitid_known_children_are_reaped(dead, monkeypatch):
    """On an old macOS the known children are waited for by pid, and nobody else's."""
    known, other = dead(4), dead(0)
    monkeypatch.delattr(os, "waitid")
    assert [found[:2] for found in reaping.reap_any([known])] == [(known, 4)]
    assert os.waitpid(other, 0)[0] == other
