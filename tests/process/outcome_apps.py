"""The app of test_outcomes.py: what process_apps has, and tasks that end in the ways of the outcome table.

Each task that a limit ends is there twice: ``…_named``, whose ``retry_for`` names the limit's own error, and
``…_unnamed``, whose ``retry_for`` names all that stands above it and beside it. Each would be tried once more, soon.
"""

from __future__ import annotations

import builtins
import os
import time

import process_apps
from process_apps import await_file, end_by, write

from poolrt.errors import MemoryLimitExceeded, SoftTimeLimitExceeded, TaskFailed, TimeLimitExceeded

TASKS = {}
LIMITS = {SoftTimeLimitExceeded, TimeLimitExceeded, MemoryLimitExceeded}
ABOVE = {TaskFailed, Exception, BaseException}


def build(url):
    """An App on this broker with the tasks of both modules."""
    app = process_apps.build(url)
    for name, (function, options) in TASKS.items():
        app.task(name=name, **options)(function)
    return app


def task(**variants):
    """Keep a function for every App that ``build`` makes, under each of these names with its options."""

    def keep(function):
        TASKS.update({name: (function, options) for name, options in variants.items()})
        return function

    return keep


def limited(kind, **limits):
    """Keep a function twice: with the limit's error ``kind`` in its ``retry_for``, and with everything else there."""

    def keep(function):
        once_more = {"max_retries": 1, "retry_backoff": 0.01, **limits}
        TASKS[f"{function.__name__}_named"] = (function, {**once_more, "retry_for": kind})
        TASKS[f"{function.__name__}_unnamed"] = (function, {**once_more, "retry_for": ABOVE | LIMITS - {kind}})
        return function

    return keep


@task(throw={}, throw_again={"max_retries": 2, "retry_for": [ConnectionError], "retry_backoff": 0.01})
def throw(ledger, kind):
    """Raise a builtin exception by name."""
    write(ledger, kind, os.getpid())
    raise getattr(builtins, kind)("the text")


@limited(SoftTimeLimitExceeded, soft_time_limit=0.2)
def over_soft(ledger, tag):
    """Run past its soft limit."""
    write(ledger, tag, os.getpid())
    time.sleep(60)


@limited(TimeLimitExceeded, time_limit=0.2)
def over_hard(ledger, tag):
    """Run past its hard limit."""
    write(ledger, tag, os.getpid())
    time.sleep(60)


@limited(MemoryLimitExceeded, memory_limit="128MiB")
def over_memory(ledger, tag):
    """Grow past its memory limit, by 4 MiB in 5 ms."""
    write(ledger, tag, os.getpid())
    held = []
    while True:
        held.append(b"x" * (4 << 20))
        time.sleep(0.005)


@task(crash={}, crash_once={"acks_late": False})
def crash(ledger, tag, how="", gate=""):
    """Say that it runs, wait for the gate if there is one, and end the child if there is a ``how``."""
    write(ledger, tag, os.getpid())
    if gate:
        await_file(gate)
    if how:
        end_by(how)
    return tag


app = build(os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))
