"""Which boot of the machine this is: what was mapped before the last one may never have reached the disk."""

import functools
import sys


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
