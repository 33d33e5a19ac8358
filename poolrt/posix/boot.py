"""The boots of the machine: which one this is (what was mapped before it may never have reached the disk), and a clock
that counts from it.
"""

import functools
import sys
import time


@functools.cache
def boot_id() -> str:
    """A text that is another after each boot of the machine; empty where the system does not tell."""
    if sys.platform != "linux":
        import psutil

        return f"{psutil.boot_time():.0f}"
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


if sys.platform == "linux":
    boottime_ns = functools.partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    """Nanoseconds since the boot, those in which the machine slept included; the same in all its processes."""

else:
    boottime_ns = time.monotonic_ns
