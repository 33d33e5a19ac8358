from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from poolrt.posix import pidfd, prctl, processes, procfs, psutil_readings

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the tree is read from /proc")


def _idle(talk, *_):
    talk.say("ready")
    talk.hear()


def _hang():
    """Wait for SIGKILL; polite signals do not end it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def _daemon(talk):
    """Fork twice and leave the middle, as daemons do; the grandchild says its pid and hangs."""
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            talk.say(os.getpid())
            _hang()
        os._exit(0)
    os.waitpid(middle, 0)


def _subreaper_with_family(talk):
    """A subreaper with a plain child, a grandchild in a session of its own, and a daemon; each says its pid."""
    prctl.become_subreaper()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            talk.say(os.getpid())
            _hang()
        talk.say(os.getpid())
        _hang()
    _daemon(talk)
    talk.say("settled")
    talk.hear()


def _hear_family(top):
    """The pids of the three below ``_subreaper_with_family``, once nobody else is there any more."""
    said = {top.hear() for _ in range(4)}
    return said - {"settled"}


def _all_closed(fd):
    """Wait until nobody holds the other end of a pipe: every process that inherited it is dead."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(10_000)) and os.read(fd, 1) == b""


@pytest.fixture
def lifeline():
    """A pipe whose write end every forked process keeps; its end-of-file says that all of them are dead."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def test_children_and_descendants(fork):
    """Children are the direct ones; descendants come breadth first, with daemons below their subreaper."""
    top = fork(_subreaper_with_family)
    family = _hear_family(top)
    found = processes.descendants(top.pid)
    assert set(found) == family
    direct = processes.children(top.pid)
    assert len(direct) == 2
    assert found[:2] == direct
    assert top.pid in processes.children(os.getpid())
    assert all(processes.parent(pid) == top.pid for pid in direct)
    assert set(processes.kill_tree(top.pid)) == {*family, top.pid}


def test_children_without_kernel_support_for_the_list(fork, monkeypatch):
    """Where the kernel keeps no children files, the parents of all processes are read."""
    child = fork(_idle)
    monkeypatch.setattr(procfs, "_lists_children", lambda: False)
    assert child.pid in procfs.children(os.getpid())


def test_kill_tree_misses_nobody(fork, lifeline):
    """Sessions, daemons and ignored signals do not save a descendant of a subreaper."""
    reader, writer = lifeline
    top = fork(_subreaper_with_family)
    os.close(writer)
    family = _hear_family(top)
    killed = processes.kill_tree(top.pid)
    assert list(killed)[-1] == top.pid
    assert set(killed) == {*family, top.pid}
    assert top.wait() == -signal.SIGKILL
    assert _all_closed(reader)
    assert processes.kill_tree(top.pid) == {}


@pytest.mark.parametrize("attempt", range(5))
def test_kill_tree_catches_a_runner(fork, lifeline, attempt):
    """A descendant that forks and leaves without a pause, so that its pid is always another, is caught."""
    reader, writer = lifeline

    def run(talk):
        prctl.become_subreaper()
        if os.fork() == 0:
            for generation in range(1_000_000):
                if os.fork():
                    os._exit(0)
                if generation == 20:
                    talk.say("running")
        talk.hear()

    top = fork(run)
    os.close(writer)
    top.hear()
    assert processes.kill_tree(top.pid)
    top.wait()
    assert _all_closed(reader)


def test_kill_tree_stops_the_one_who_forks(fork, lifeline):
    """A process that starts one after the other is stopped first: none is started behind the back of the walk."""
    reader, writer = lifeline

    def spawn(talk):
        for count in range(1_000_000):
            if os.fork() == 0:
                signal.alarm(10)  # a failing test leaves nobody for long
                signal.pause()
                os._exit(0)
            if count == 5:
                talk.say("spawning")

    top = fork(spawn)
    os.close(writer)
    top.hear()
    assert len(processes.kill_tree(top.pid)) > 5
    top.wait()
    assert _all_closed(reader)


def test_a_reused_pid_is_not_killed(fork):
    """A victim whose start time differs from the one that was read is somebody else."""
    child = fork(_idle)
    child.hear()
    assert not processes._kill_exactly(child.pid, processes.start_time(child.pid) + 1)
    child.say("leave")
    assert child.wait() == 0
    assert not processes._kill_exactly(child.pid, 1)


def test_a_zombie_seen_for_the_first_time_is_no_proof(monkeypatch):
    """A walk that finds nobody alive but new zombies is repeated: one of them may have just handed on a child."""
    walks = iter(
        [{10: (1, False)}, {10: (1, False), 11: (2, True)}, {10: (1, False), 11: (2, False)}, {10: (1, False)}]
    )
    monkeypatch.setattr(processes, "_walk", lambda pid, spare: next(walks))
    monkeypatch.setattr(processes, "_kill_exactly", lambda pid, born: True)
    assert list(processes._kill_below(1, (), time.monotonic() + 5)) == [11]
    assert next(walks, "all walked") == "all walked"


def test_another_users_process_is_tried_once(monkeypatch):
    """A descendant that may not be signalled (a setuid program) does not hold up the others or the caller."""
    tried = []

    def refuse(pid, born):
        tried.append(pid)
        raise PermissionError

    monkeypatch.setattr(processes, "_walk", lambda pid, spare: {10: (1, True)})
    monkeypatch.setattr(processes, "_kill_exactly", refuse)
    assert not processes._kill_below(1, (), time.monotonic() + 5)
    assert tried == [10]


def test_kill_descendants_spares_whom_it_is_told(in_child):
    """A subreaper ends its strays, keeps one child with all below it, and takes zombies for dead."""

    def tidy():
        prctl.become_subreaper()
        reader, writer = os.pipe()
        spared = os.fork()
        if spared == 0:
            if os.fork() == 0:
                os.write(writer, b".")
                _hang()
            _hang()
        for _ in range(3):
            middle = os.fork()
            if middle == 0:
                if os.fork() == 0:
                    os.write(writer, b".")
                    _hang()
                os._exit(0)
            os.waitid(os.P_PID, middle, os.WEXITED | os.WNOWAIT)
        told = b""
        while len(told) < 4:
            told += os.read(reader, 4)
        before = len(processes.descendants(os.getpid()))
        killed = processes.kill_descendants(os.getpid(), spare=[spared])
        alive = [pid for pid in processes.descendants(os.getpid()) if processes.is_alive(pid)]
        family = [spared, *processes.children(spared)]
        again = processes.kill_descendants(os.getpid(), spare=[spared])
        everyone = processes.kill_descendants(os.getpid())
        return before, len(killed), sorted(alive) == sorted(family), again, sorted(everyone) == sorted(family)

    before, killed, kept, again, everyone = in_child(tidy)
    assert before == 8  # two spared; three strays, and the three zombies that left them
    assert killed == 3
    assert kept
    assert again == {}
    assert everyone


def test_readings_of_a_living_process(fork):
    """State, parent, start time, memory and CPU time of a child are what they must be."""
    child = fork(_idle)
    child.hear()
    while processes.state(child.pid) != "S":
        os.sched_yield()
    assert processes.parent(child.pid) == os.getpid()
    assert processes.start_time(child.pid) >= processes.start_time(os.getpid())
    assert processes.rss_bytes(child.pid) > processes.private_bytes(child.pid) > 100_000
    assert 0 <= processes.cpu_seconds(child.pid) < 5
    assert processes.is_alive(child.pid)
    assert not processes.is_stopped(child.pid)
    assert processes.command(child.pid) == processes.command(os.getpid()) != ""
    assert processes.threads(child.pid)[0][0] == child.pid


def test_readings_of_a_zombie_and_of_nobody(fork):
    """A zombie has a state and a name only; a process that is gone has nothing, and nothing is raised."""
    child = fork(_idle)
    fd = pidfd.open_pidfd(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert pidfd.is_exited(fd, timeout=10)
    os.close(fd)
    pid = child.pid
    assert (processes.state(pid), processes.is_alive(pid), processes.rss_bytes(pid)) == ("Z", False, 0)
    assert processes.private_bytes(pid) is None
    assert processes.command(pid).startswith("[")
    child.wait()
    gone = [processes.state, processes.parent, processes.start_time, processes.rss_bytes, processes.private_bytes]
    assert [read(pid) for read in (*gone, processes.cpu_seconds, processes.identity)] == [None] * 7
    assert (processes.command(pid), processes.children(pid), processes.threads(pid)) == ("", [], [])
    assert processes.descendants(pid) == []
    assert not processes.is_stopped(pid)


def test_a_name_with_brackets_does_not_shift_the_fields(in_child):
    """The name in the stat line may look like its end; the state and the parent are still found."""

    def read():
        prctl.set_process_title("a) Z 1 (b")
        return processes.state(os.getpid()), processes.parent(os.getpid()) == os.getppid()

    assert in_child(read) == ("R", True)


def test_a_command_line_is_safe_to_print():
    """Newlines and terminal escapes in an argument come out escaped."""
    arguments = [sys.executable, "-c", "input(1)", "a\nb", "\x1b[31m"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(1) == b"1"  # during its exec it has no command line
        assert processes.command(process.pid).endswith(" -c input(1) a\\nb \\x1b[31m")
        process.communicate(b"\n")


def test_threads_are_named(in_child):
    """Every thread is listed with the name the kernel knows, the first one first."""

    def listed():
        done = threading.Event()
        named = threading.Event()

        def wait():
            with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as file:
                file.write("a stray thread")
            named.set()
            done.wait()

        thread = threading.Thread(target=wait)
        thread.start()
        named.wait()
        found = processes.threads()
        done.set()
        thread.join()
        return found[0][0] == os.getpid(), found[1] == (thread.native_id, "a stray thread"), len(found)

    assert in_child(listed) == (True, True, 2)


def test_marked_processes_are_found_by_the_exact_value():
    """Only a process exec'ed with exactly this name and value is found, and what it forked."""
    code = "import os, sys; os.fork(); print('.', end='', flush=True); sys.stdin.read()"
    environment = {**os.environ, "POSIX_TEST_MARK": "one"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.read(1) + process.stdout.read(1) == b".."
        found = processes.marked("POSIX_TEST_MARK", "one")
        assert sorted(found) == sorted([process.pid, *processes.children(process.pid)])
        assert processes.marked("POSIX_TEST_MARK", "on") == []
        assert processes.marked("TEST_MARK", "one") == []
        assert sorted(psutil_readings.marked("POSIX_TEST_MARK", "one")) == sorted(found)
        process.stdin.close()
        assert process.stdout.read() == b""


def test_holders_of_a_file_are_found(fork, tmp_path):
    """Whoever has the file open is found, not who has another file of that name."""
    path = tmp_path / "held"
    path.write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "held").write_bytes(b"x")

    def hold(talk, name):
        with open(name, "rb"):
            talk.say("open")
            talk.hear()

    holder, other = fork(hold, path), fork(hold, tmp_path / "other" / "held")
    holder.hear()
    other.hear()
    assert processes.holding(path) == [holder.pid]
    assert psutil_readings.holding(path) == [holder.pid]


def test_out_of_descriptors_is_not_taken_for_gone(in_child):
    """When no file can be opened any more the reading fails; None would declare a living process dead."""

    def exhausted():
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with pytest.raises(OSError, match="Too many open files"):
            processes.state(os.getppid())
        return True

    assert in_child(exhausted)


def test_psutil_readings_agree_with_proc(fork):
    """The stand-in for systems without /proc answers the same for a living child, a zombie and nobody."""
    child = fork(_idle)
    child.hear()
    while procfs.state(child.pid) != "S":
        os.sched_yield()
    for name in ("state", "parent", "is_alive", "is_stopped", "command", "children", "rss_bytes"):
        assert getattr(psutil_readings, name)(child.pid) == getattr(procfs, name)(child.pid), name
    assert psutil_readings.private_bytes(child.pid) == pytest.approx(procfs.private_bytes(child.pid), rel=0.2)
    assert psutil_readings.children(os.getpid()) == procfs.children(os.getpid())
    assert psutil_readings.threads(child.pid) == [(child.pid, "")]
    assert len(psutil_readings.threads()) == len(procfs.threads())
    assert child.pid in psutil_readings.pids()
    assert psutil_readings.cpu_seconds(child.pid) == pytest.approx(procfs.cpu_seconds(child.pid), abs=0.05)
    assert psutil_readings.identity(child.pid) == (psutil_readings.start_time(child.pid), True)
    fd = pidfd.open_pidfd(child.pid)
    assert pidfd.stop_and_wait(child.pid, fd, timeout=5) is pidfd.Stopped.STOPPED
    assert psutil_readings.is_stopped(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert pidfd.is_exited(fd, timeout=10)
    os.close(fd)
    assert (psutil_readings.state(child.pid), psutil_readings.is_alive(child.pid)) == ("Z", False)
    child.wait()
    assert [psutil_readings.state(child.pid), psutil_readings.rss_bytes(child.pid)] == [None, None]
    assert (psutil_readings.identity(child.pid), psutil_readings.command(child.pid)) == (None, "")


def test_both_readings_offer_the_same_names():
    """`processes` can take either file: every name it passes on is in both."""
    for name in set(processes.__all__) - {"dead_children", "descendants", "kill_descendants", "kill_tree"}:
        assert callable(getattr(procfs, name))
        assert callable(getattr(psutil_readings, name))
