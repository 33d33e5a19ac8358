"""What each signal to the supervisor means.

TERM, INT   drain: running tasks may finish; a second one ends the grace
QUIT        drain without grace: what runs is interrupted
HUP         reload the code; with a controlling terminal, drain
TSTP, CONT  quiet and resume; with a controlling terminal, their usual meaning
TTIN, TTOU  a child more, a child less
USR1        the stacks of all children, to the log
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from poolrt.errors import ConfigurationError
from poolrt.posix.signals import do_nothing, signal_name
from poolrt.supervisor import orders

if TYPE_CHECKING:
    from poolrt.supervisor.supervisor import Supervisor

log = logging.getLogger("poolrt.supervisor")


def _drain(supervisor: Supervisor, number: int) -> None:
    supervisor.stop_by_signal(signal_name(number), None)


def _quit(supervisor: Supervisor, number: int) -> None:
    supervisor.stop_by_signal(signal_name(number), 0.0)


def _hang_up(supervisor: Supervisor, number: int) -> None:
    """From a terminal it says that the terminal is gone: nobody would be there to see the new code."""
    if supervisor.on_terminal:
        supervisor.stop_by_signal(signal_name(number), None)
    else:
        orders.reload(supervisor)


def _quiet(supervisor: Supervisor, number: int) -> None:
    orders.set_quiet(supervisor, quiet=True)


def _resume(supervisor: Supervisor, number: int) -> None:
    orders.set_quiet(supervisor, quiet=False)


def _one_more(supervisor: Supervisor, number: int) -> None:
    orders.scale(supervisor, orders.serving_pool(supervisor, "scaled").wanted + 1)


def _one_less(supervisor: Supervisor, number: int) -> None:
    orders.scale(supervisor, max(1, orders.serving_pool(supervisor, "scaled").wanted - 1))


def _stacks(supervisor: Supervisor, number: int) -> None:
    orders.log_stacks(supervisor)


def _reap(supervisor: Supervisor, number: int) -> None:
    supervisor.reap()


ORDERS: dict[int, Callable[[Supervisor, int], None]] = {
    signal.SIGTERM: _drain,
    signal.SIGINT: _drain,
    signal.SIGQUIT: _quit,
    signal.SIGHUP: _hang_up,
    signal.SIGTSTP: _quiet,
    signal.SIGCONT: _resume,
    signal.SIGTTIN: _one_more,
    signal.SIGTTOU: _one_less,
    signal.SIGUSR1: _stacks,
    signal.SIGCHLD: _reap,
}


def install(record: Callable[[int, FrameType | None], object], *, on_terminal: bool) -> None:
    """Let ``record`` take every signal of the table, but for what the starter ignored (nohup) and what a shell does."""
    for number in ORDERS:
        if on_terminal and number in (signal.SIGTSTP, signal.SIGCONT):
            continue  # ^Z and fg
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
            signal.signal(number, record)
    signal.signal(signal.SIGUSR2, do_nothing)


def obey(supervisor: Supervisor, number: int) -> None:
    """Do what the signal asks for; what cannot be done now is logged."""
    try:
        ORDERS[number](supervisor, number)
    except ConfigurationError as error:
        log.warning("%s: %s", signal_name(number), error)
