"""What tasks leave behind reaches the node's status, ``poolrt leaks`` and the broker; policies of tasks and node."""

import json
import socket
import subprocess
import sys

import pytest

APP = """
import socket

from poolrt import App

app = App("leaky", broker="{broker}")
kept = []


@app.task{options}
def fetch(port):
    kept.append(socket.create_connection(("127.0.0.1", port)))
"""


@pytest.fixture
def port():
    """Where a listener accepts as fast as its backlog."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def leaky(place, app, monkeypatch):
    """``leaky('(leaks="…")')``: an app whose task leaves a connection at each run; the task."""
    monkeypatch.syspath_prepend(str(place))

    def make(options=""):
        (place / "leaky_app.py").write_text(APP.format(broker=f"sqlite:///{place}/p.db", options=options))
        sys.modules.pop("leaky_app", None)
        import leaky_app

        return leaky_app.fetch

    yield make
    module = sys.modules.pop("leaky_app", None)
    if module is not None:
        module.app.close()


def connections(rows):
    """The rows of that kind: what else the task may leave is another's business here."""
    return [row for row in rows if row["kind"] == "connections"]


def kept_by(broker):
    """The same of the broker's rows."""
    return connections([row.as_object() for row in broker.leaks()])


def command(*arguments):
    """What ``poolrt leaks …`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "poolrt", "leaks", *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


def test_it_is_shown_and_outlives_the_node(serve, leaky, app, port, place):
    """Status, command and broker agree on task, kind and peer; a node that stops has handed in what it knows."""
    fetch = leaky()
    node = serve("leaky_app:app", concurrency=2, cwd=place)
    for result in fetch.enqueue_many([(port,)] * 120):
        result.get(20)
    node.wait(lambda: connections(node.status()["leaks"]), "it is found")
    kinds = [event["numbers"]["kind"] for event in node.wait_event("leak-found", task="leaky_app.fetch")]
    assert "connections" in kinds
    (row,) = connections(node.status()["leaks"])
    assert (row["task"], f"127.0.0.1:{port}" in row["what"]) == ("leaky_app.fetch", True)
    assert 0 < row["count"] <= 120
    told = json.loads(command("--json"))
    assert told["schema"] == 1
    (shown,) = connections(told["leaks"])
    assert (shown["what"], "leaky_app.fetch" in command()) == (row["what"], True)
    node.wait(lambda: kept_by(app.broker), "the steward has written it")
    assert node.stop() == 0
    (kept,) = kept_by(app.broker)
    assert (kept["task"], kept["what"]) == ("leaky_app.fetch", row["what"])
    assert shown["count"] <= kept["count"] <= 120
    rows = app.broker.leaks()
    url = f"sqlite:///{place}/p.db"
    assert json.loads(command(url, "--json"))["leaks"] == [each.as_object() for each in rows]
    assert command(url, "--forget") == f"{len(rows)} forgotten\n"
    assert app.broker.leaks() == []


def test_a_node_that_stops_at_once_has_handed_in_what_it_knows(serve, leaky, app, port, place):
    """What was found within the last second, too: it does not wait for the supervisor's next look, nor for a tick."""
    fetch = leaky()
    node = serve("leaky_app:app", cwd=place)
    fetch.enqueue_many([(port,)] * 40)
    event = node.wait_event("leak-found")[0]
    assert node.stop() == 0
    kind, count = event["numbers"]["kind"], event["numbers"]["count"]
    assert [row for row in app.broker.leaks() if row.kind == kind and row.count >= count]


def test_forgetting_what_a_node_knows(serve, leaky, port, place):
    """Without an app it is the node's own table that begins anew."""
    fetch = leaky()
    node = serve("leaky_app:app", cwd=place)
    for result in fetch.enqueue_many([(port,)] * 40):
        result.get(20)
    node.wait_event("leak-found")
    assert json.loads(command("--forget", "--json"))["forgotten"] >= 1
    assert connections(node.status()["leaks"]) == connections(json.loads(command("--json"))["leaks"]) == []
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ('(leaks="connections=ignore")', {}),
        ('(leaks="ignore")', {"leak_policy": "fail"}),
        ("", {"leak_policy": "ignore"}),
        ("", {"leak_allow": "connections:127.0.0.1:*"}),
    ],
    ids=["the task's", "the task's before the node's", "the node's", "what is allowed"],
)
def test_what_is_ignored_is_not_told(serve, leaky, app, port, place, options, settings):
    """By the task's own policy, the node's, or what is allowed: no event, no row, and the child stays."""
    fetch = leaky(options)
    node = serve("leaky_app:app", cwd=place, **settings)
    for result in fetch.enqueue_many([(port,)] * 60):
        result.get(20)
    assert connections(node.status()["leaks"]) == []
    told = [event["numbers"]["kind"] for event in node.events("leak-found")]
    assert "connections" not in told
    assert not node.events("child-recycled")
    assert node.stop() == 0
    assert kept_by(app.broker) == []


def test_a_policy_that_is_none_stops_the_start(serve):
    """Exit code 2 and one line, as for every other setting."""
    node = serve(leak_policy="threads=shoot")
    assert node.wait_end() == 2
    assert "--leak-policy: 'threads=shoot' is no leak policy" in node.plain()
