"""The app of test_crash_report.py: tasks that say something, connect, grow, and end their child."""

from __future__ import annotations

import os
import socket
import sys
import time

import process_apps

SECRET = "s3cret-t0ken"


def speak():
    """A line to each stream."""
    print("the last line of stdout")
    print("the last line of stderr", file=sys.stderr)


def die(secret, how):
    """Say something, then end the child."""
    speak()
    process_apps.end_by(how)


def hang(secret):
    """Connect to itself, say something, and run past the limit."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        speak()
        time.sleep(60)


def grow(secret):
    """Say something, and grow past the limit by 4 MiB in 20 ms."""
    speak()
    held = []
    while True:
        held.append(b"x" * (4 << 20))
        time.sleep(0.02)


def wait(secret, ledger):
    """Say who runs, and wait to be killed."""
    speak()
    process_apps.write(ledger, os.getpid())
    time.sleep(60)


def build(url):
    """An App on this broker with these tasks."""
    app = process_apps.build(url)
    app.task(name="crash_report.die")(die)
    app.task(name="crash_report.hang", time_limit=0.7)(hang)
    app.task(name="crash_report.grow", memory_limit="160MiB")(grow)
    app.task(name="crash_report.wait")(wait)
    return app


app = build(os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))
