"""A broker's password reaches every process that needs it, and shows nowhere: not in ``ps``, an environment, a log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil

import poolrt

SECRET = "ge-heim"


def test_a_password_in_the_url_shows_nowhere(own_servers, capfd, wait_for):
    """The app travels by value to a pool that works; then every process of it, its status and its output are read."""
    server = own_servers.server(requirepass=SECRET)
    app = poolrt.App("shop", server.url(password=SECRET))

    @app.task(name="add")
    def add(first, second):
        return first + second

    with poolrt.Supervisor(app, concurrency=1, log_level="debug") as pool:
        assert add.delay(2, 3).get(timeout=20) == 5
        shown = [json.dumps(pool.status())]
        processes = (psutil.Process(pool.pid), *psutil.Process(pool.pid).children(recursive=True))
        assert len(processes) == 4  # supervisor, template, child, steward
        shown += [
            Path(f"/proc/{process.pid}/{name}").read_text(errors="replace")
            for process in processes
            for name in ("cmdline", "environ")
        ]
        server.kill()
        said: list[str] = []

        def told() -> bool:
            said.extend(capfd.readouterr())
            return any(server.url() in text for text in said)

        wait_for(told, "the log tells of the lost broker")
        server.start()
    shown += [*said, *capfd.readouterr()]
    assert not [text for text in shown if SECRET in text]
    app.close()


def test_a_password_of_a_file_shows_nowhere(own_servers):
    """Every process reads the file itself; only its path is handed on."""
    server = own_servers.server(requirepass=SECRET)
    file = server.folder / "password"
    file.touch(mode=0o600)
    file.write_text(SECRET)
    app = poolrt.App("shop", server.url(password_file=file))

    @app.task(name="pid")
    def pid():
        return os.getpid()

    assert SECRET not in app.broker.secret_url
    with poolrt.Supervisor(app, concurrency=1):
        assert pid.delay().get(timeout=20) != os.getpid()
    app.close()
