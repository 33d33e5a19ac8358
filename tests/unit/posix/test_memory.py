from __future__ import annotations

import ctypes
import os

import pytest

from poolrt.posix import memory


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """``cgroups(own, {path: content})``: what /proc/self/cgroup and /sys/fs/cgroup show."""

    def show(own, contents):
        (tmp_path / "own").write_text(own)
        for path, content in contents.items():
            file = tmp_path / "fs" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        monkeypatch.setattr(memory, "_OWN_GROUPS", str(tmp_path / "own"))
        monkeypatch.setattr(memory, "_CGROUPS", str(tmp_path / "fs"))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    return show


def test_version_2_takes_the_lowest_limit_of_all_groups_above(cgroups):
    """A quota or limit on any group up to the root binds this process."""
    cgroups(
        "0::/a.slice/b.service\n",
        {
            "cgroup.controllers": "cpu memory\n",
            "a.slice/cpu.max": "250000 100000\n",
            "a.slice/memory.max": "max\n",
            "a.slice/b.service/cpu.max": "max 100000\n",
            "a.slice/b.service/memory.max": "1073741824\n",
        },
    )
    assert memory.available_cpus() == 3
    assert memory.cgroup_memory_limit() == 1 << 30


def test_version_1_in_a_container(cgroups):
    """The path is the host's and does not exist here; the mount's root is ours and counts."""
    cgroups(
        "9:name=systemd:/docker/ab\n4:memory:/docker/ab\n1:cpu,cpuacct:/docker/ab\n",
        {
            "memory/memory.limit_in_bytes": "536870912\n",
            "cpu/cpu.cfs_quota_us": "50000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory.available_cpus() == 1
    assert memory.cgroup_memory_limit() == 512 << 20


def test_no_limits(cgroups):
    """ "max", -1 and the huge number of version 1 are no limits; without cgroups there is none either."""
    cgroups(
        "4:memory:/x\n1:cpu:/x\n0::/\n",
        {
            "memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu/x/cpu.cfs_quota_us": "-1\n",
            "cpu/x/cpu.cfs_period_us": "100000\n",
            "unified/cpu.max": "max 100000\n",
        },
    )
    assert memory.available_cpus() == 8
    assert memory.cgroup_memory_limit() is None
    cgroups("", {})
    assert memory.available_cpus() == 8
    assert memory.cgroup_memory_limit() is None


def test_the_affinity_mask_counts(in_child):
    """A process bound to one CPU has one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity masks here")

    def bound():
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        return memory.available_cpus()

    assert in_child(bound) == 1
    assert memory.available_cpus() >= 1


def test_this_machine_can_be_read():
    """The real files give a plausible answer."""
    limit = memory.cgroup_memory_limit()
    assert limit is None or limit > 1 << 20


def test_free_memory_goes_back_to_the_system(in_child):
    """After a task freed many small blocks below one that lives on, only the trim makes the process smaller."""

    def shrink():
        from poolrt.posix import processes

        blocks = [bytearray(4000) for _ in range(20_000)]
        last = bytearray(4000)  # on top of the heap: keeps glibc from shrinking it by itself
        full = processes.rss_bytes(os.getpid())
        blocks.clear()
        freed = processes.rss_bytes(os.getpid())
        answer = memory.release_free_memory()
        return full, freed, processes.rss_bytes(os.getpid()), answer, len(last)

    full, freed, trimmed, answer, _ = in_child(shrink)
    assert answer
    assert freed > full - (10 << 20)
    assert trimmed < full - (60 << 20)


def test_without_malloc_trim_nothing_happens(monkeypatch):
    """On musl and macOS there is nothing to call, and nothing is promised."""
    import ctypes

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory._malloc_trim.cache_clear()
    assert memory.release_free_memory() is False
    memory._malloc_trim.cache_clear()


def test_the_resident_size_of_a_process_is_read_through_a_kept_descriptor(fork):
    """It grows with what the process touches, reads as 0 once it has ended, and its descriptor can be closed twice."""

    def grow(talk):
        talk.hear()
        kept = b"x" * (50 << 20)
        talk.say(len(kept))
        talk.hear()

    other = fork(grow)
    size = memory.ResidentSize(other.pid)
    before = size.read()
    other.say("go")
    assert other.hear() == 50 << 20
    assert size.read() - before > 45 << 20
    other.kill()
    assert size.read() == 0
    size.close()
    size.close()


def test_the_peak_is_no_less_than_what_is_resident():
    """The highest size so far is at least the present one."""
    size = memory.ResidentSize(os.getpid())
    assert memory.own_peak() >= size.read() - (1 << 20)
    size.close()


def test_live_bytes_follow_what_is_in_use():
    """A large block counts with its size, many small ones with about theirs, and all of it is gone when they are."""
    before = memory.live_bytes()
    large = bytearray(10 << 20)
    small = [(number, str(number)) for number in range(10_000)]
    with_both = memory.live_bytes()
    del small
    with_large = memory.live_bytes()
    del large
    after = memory.live_bytes()
    assert 1 << 20 < with_both - with_large < 6 << 20
    if hasattr(ctypes.CDLL(None), "mallinfo2"):
        assert abs(with_large - before - (10 << 20)) < 1 << 20
        assert abs(after - before) < 1 << 20


def test_without_mallinfo2_small_blocks_count(monkeypatch):
    """On musl, macOS and an older glibc Python's own blocks are what there is."""
    monkeypatch.setattr(memory, "_malloc_in_use", lambda: lambda: 0)
    before = memory.live_bytes()
    small = [(number, str(number)) for number in range(10_000)]
    assert memory.live_bytes() - before >= len(small) * memory.SMALL_BLOCK
