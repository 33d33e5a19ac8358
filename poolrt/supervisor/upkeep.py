"""What the supervisor looks at once a second, beside what it is told: nothing here is awaited by anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolrt import logs
from poolrt.errors import ExitCode
from poolrt.supervisor.aging import replace_aged
from poolrt.supervisor.standstill import check_boots, check_hangs, check_stops

if TYPE_CHECKING:
    from poolrt.supervisor.supervisor import Supervisor


def look_around(supervisor: Supervisor) -> None:
    """End what stands still, replace what is old or fat, repeat what may be lost."""
    logs.flush()
    template, files, pool, settings = supervisor.template, supervisor.files, supervisor.pool, supervisor.settings
    template.check()
    if files is not None and not files.lock.is_current() and not supervisor.failure:
        supervisor.give_up(ExitCode.BROKER_UNUSABLE, f"{files.lock.path} was deleted while the node ran")
    if pool is None:
        return
    if not check_boots(pool, settings.boot_timeout):
        template.kill(f"it did not fork within {settings.boot_timeout:g} s")
    pool.coroner.look()
    check_stops(pool)
    check_hangs(pool)
    replace_aged(pool, settings.max_lifetime)
    pool.repeat_tickets()
    supervisor.reporter.leaks.forward(pool.steward)
    supervisor.steward.check(pool)
    template.end_former(lambda former: any(child.alive and child.template is former for child in pool))
    fat = supervisor.memory.over([child for child in pool if child.alive], template.pid)
    if fat is not None:
        pool.retire(*fat)
