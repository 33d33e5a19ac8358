"""The app of test_soft_cancel.py: tasks that are cancelled while they run, and answer each in another way."""

import asyncio
import contextlib
import os
import signal
import time

from process_apps import write

import poolrt
from poolrt import Cancelled

TASKS = {}


def build(url):
    """An App on this broker with the tasks below; each would be tried again after whatever it raises."""
    app = poolrt.App("cancel", broker=url)
    for function in TASKS.values():
        app.task(
            name=function.__name__, max_retries=3, retry_for=BaseException, retry_backoff=0.01, time_limit=30
        )(function)  # fmt: skip
    return app


def task(function):
    """Keep a function for every App that ``build`` makes."""
    TASKS[function.__name__] = function
    return function


@contextlib.contextmanager
def noted(ledger, tag):
    """Say that the block began, and that it was left."""
    write(ledger, tag, "began", os.getpid())
    try:
        yield
    finally:
        write(ledger, tag, "left", os.getpid())


@task
def sleeping(ledger, tag):
    """Sleeps in a ``with``, and swallows every Exception."""
    with noted(ledger, tag):
        try:
            time.sleep(60)
        except Exception:
            write(ledger, tag, "swallowed", os.getpid())


@task
def computing(ledger, tag):
    """Never waits for anything."""
    with noted(ledger, tag):
        while True:
            int("1")


@task
async def awaiting(ledger, tag):
    """A coroutine; its cleanup awaits."""
    with noted(ledger, tag):
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            write(ledger, tag, "awaited", os.getpid())


@task
async def grouped(ledger, tag):
    """Waits for coroutines in a TaskGroup."""
    with noted(ledger, tag):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(asyncio.sleep(60))


@task
def returning(ledger, tag):
    """Catches it and returns."""
    with noted(ledger, tag):
        try:
            time.sleep(60)
        except Cancelled:
            return "a value"


@task
def raising(ledger, tag):
    """Raises something else while it cleans up."""
    with noted(ledger, tag):
        try:
            time.sleep(60)
        finally:
            raise ValueError("of its own")


@task
def stubborn(ledger, tag):
    """Goes on whatever is raised in it."""
    with noted(ledger, tag):
        while True:
            try:
                time.sleep(60)
            except BaseException:
                continue


@task
def deadly(ledger, tag):
    """Has made the signal that interrupts it end its process."""
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    with noted(ledger, tag):
        time.sleep(60)


@task
def failing(ledger, tag, gate):
    """Hears no signal, and fails."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    with noted(ledger, tag):
        while not os.path.exists(gate):
            time.sleep(0.002)
    raise ValueError("to be tried again")


def __getattr__(name):
    if name == "app":
        return build(os.environ["TEST_BROKER"])
    raise AttributeError(name)
