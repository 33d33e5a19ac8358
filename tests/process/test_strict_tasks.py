"""Tasks whose own leaks fail their runs: each run is looked at before and after it, so each is caught, and no other."""

import sys

import pytest

APP = """
import os
import threading
import time

from poolrt import App

app = App("strict", broker="{broker}")


@app.task(leaks="state=fail")
def move(pause):
    time.sleep(pause)
    os.chdir("/")


@app.task(leaks="state=fail")
def stay():
    return os.environ.get("LEFT_BY_OTHERS", "")


@app.task
def meddle(number):
    os.chdir("/")
    os.environ["LEFT_BY_OTHERS"] = str(number)


@app.task
def plain():
    pass


"""


@pytest.fixture
def strict(place, app, monkeypatch):
    """The tasks of an app of its own: a policy that fails runs changes the order of things in the whole child."""
    monkeypatch.syspath_prepend(str(place))
    (place / "strict_app.py").write_text(APP.format(broker=f"sqlite:///{place}/p.db"))
    import strict_app

    yield strict_app
    del sys.modules["strict_app"]
    strict_app.app.close()


@pytest.fixture
def cause(strict):
    """``cause(result)``: why a run failed, as its record has it; empty: it succeeded."""
    from poolrt.errors import TaskFailed

    def find(result):
        try:
            result.get(30)
        except TaskFailed as error:
            return error.cause
        return ""

    return find


@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_each_run_that_changes_state_fails(serve, strict, cause, pause):
    """All 40, however quick, beside others that are quick."""
    plain, moved = [], []
    for _ in range(40):
        plain += strict.plain.enqueue_many([()] * 5)
        moved += strict.move.enqueue_many([(pause,)])
    node = serve("strict_app:app", concurrency=1, leak_policy="state=warn")
    assert [cause(result) for result in moved] == ["LeakFound"] * 40
    assert [cause(result) for result in plain] == [""] * 200
    assert node.stop() == 0


def test_no_run_fails_for_what_another_changed(serve, strict, cause):
    """What runs before it left is found and put back before it starts."""
    meddled, stayed = [], []
    for number in range(40):
        meddled += strict.meddle.enqueue_many([(number,)])
        stayed += strict.stay.enqueue_many([()])
    node = serve("strict_app:app", concurrency=1, leak_policy="state=warn")
    assert [cause(result) for result in (*stayed, *meddled)] == [""] * 80
    seen = [result.get(1) for result in stayed]
    assert set(seen[1:]) == {""}, "the first value may have been meant to stay"
    named = {event["task"] for event in node.wait_event("leak-found", 2)}
    assert named == {"strict_app.meddle"}
    assert node.stop() == 0
