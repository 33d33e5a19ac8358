from __future__ import annotations

import os
import signal

import pytest

from poolrt.posix import prctl

linux = pytest.mark.skipif(not os.path.exists("/proc/self/comm"), reason="prctl is Linux's")


def _family(ask):
    """In a subreaper: start a parent with a child, kill the parent; the child's signal, and whether it fell to us."""
    prctl.become_subreaper()
    ready_r, ready_w = os.pipe()
    parent = os.fork()
    if parent == 0:
        me = os.getpid()
        child = os.fork()
        if child == 0:
            if ask:
                prctl.die_with_parent(me)
            os.write(ready_w, str(os.getpid()).encode())
        signal.pause()
        os._exit(0)
    child = int(os.read(ready_r, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    if not ask:
        adopted = os.waitpid(child, os.WNOHANG) == (0, 0)  # no ECHILD: it is ours now, and alive
        os.kill(child, signal.SIGTERM)
        return os.WTERMSIG(os.waitpid(child, 0)[1]), adopted
    return os.WTERMSIG(os.waitpid(child, 0)[1]), True


@linux
def test_a_child_that_asked_dies_with_its_parent(in_child):
    """The kernel kills it at once when its parent is killed."""
    assert in_child(_family, True) == (signal.SIGKILL, True)


@linux
def test_a_child_that_did_not_ask_lives_on_under_the_subreaper(in_child):
    """Without the request the orphan survives, and the subreaper is its new parent and can reap it."""
    assert in_child(_family, False) == (signal.SIGTERM, True)


def test_a_parent_already_gone_is_told(in_child):
    """When another process is the parent by now, the caller learns it instead of waiting for a signal for ever."""

    def ask():
        with pytest.raises(prctl.ParentGone, match="its parent is"):
            prctl.die_with_parent(os.getpid())
        return True

    assert in_child(ask)


@linux
@pytest.mark.parametrize(("title", "shown"), [("poolrt: child 3", "poolrt: child 3"), ("x" * 40, "x" * 15), ("", "-")])
def test_the_title_shows_cut_to_15_bytes(in_child, title, shown):
    """What ps shows as the name is the title's first 15 bytes."""

    def name():
        prctl.set_process_title(title)
        with open("/proc/self/comm") as file:
            return file.read().rstrip("\n")

    assert in_child(name) == shown


@linux
def test_a_refusal_of_the_kernel_is_raised(in_child):
    """An option the kernel does not know is an OSError, not silence."""

    def ask():
        with pytest.raises(OSError, match="prctl"):
            prctl._prctl()(99999, 0)
        return True

    assert in_child(ask)
