"""The app of test_soft_delivery.py: tasks past their soft limit, each stuck in another way."""

from __future__ import annotations

import asyncio
import os
import queue
import time

from process_apps import write

import poolrt

SOFT = 0.2
"""Seconds of each task's soft limit."""
TASKS = {}


def build(url):
    """An App on this broker with the tasks below."""
    app = poolrt.App("soft", broker=url)
    for function in TASKS.values():
        app.task(name=function.__name__, soft_time_limit=SOFT, time_limit=20)(function)
    return app


def task(function):
    """Keep a function for every App that ``build`` makes."""
    TASKS[function.__name__] = function
    return function


@task
def statements(ledger):
    """User code that swallows every Exception; its cleanup takes as long as two more signals."""
    try:
        while True:
            try:
                int("x")
            except Exception:
                continue
    finally:
        time.sleep(0.15)
        write(ledger, "statements", "cleaned", os.getpid())


@task
def sleeping(ledger):
    """One long call."""
    try:
        time.sleep(60)
    finally:
        write(ledger, "sleeping", "cleaned", os.getpid())


@task
def in_library(ledger):
    """A wait inside the standard library."""
    try:
        queue.Queue().get()
    finally:
        write(ledger, "in_library", "cleaned", os.getpid())


@task
async def awaiting(ledger):
    """A coroutine that cleans up with an await."""
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.15)
        write(ledger, "awaiting", "cleaned", os.getpid())


@task
async def blocking(ledger):
    """A coroutine that keeps its loop."""
    try:
        time.sleep(60)  # noqa: ASYNC251  this is what is tested
    finally:
        write(ledger, "blocking", "cleaned", os.getpid())


@task
def shielded(ledger):
    """Something that must not be cut, for longer than all signals; then something that may be."""
    with poolrt.shield():
        time.sleep(SOFT + 1.2)
        write(ledger, "shielded", "cleaned", os.getpid())
    write(ledger, "shielded", "went on", os.getpid())


@task
def partial(ledger):
    """It answers with what it has."""
    try:
        time.sleep(60)
    except poolrt.SoftTimeLimitExceeded:
        write(ledger, "partial", "cleaned", os.getpid())
        return "partial"


app = build(os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))
