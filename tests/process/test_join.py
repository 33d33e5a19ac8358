"""A running task that waits for another one is told not to, by name and with advice; where it is meant, it may."""

import pytest

from poolrt.errors import PoolrtError, WaitInsideTask


@pytest.fixture
def app(place):
    """The App of join_apps on this test's broker file."""
    import join_apps

    made = join_apps.build(f"sqlite:///{place}/p.db")
    yield made
    made.close()


def test_waiting_inside_a_task(serve, tasks):
    """In a function, on a loop and for many it is refused at once, however many children are free. Where it is allowed
    it waits; and what has ended may be looked at by anybody."""
    serve("join_apps:app", concurrency=2)
    for name in ("waits", "awaits", "waits_for_many"):
        result = getattr(tasks, name).delay(4)
        with pytest.raises(WaitInsideTask, match=rf"{name}#{result.id} waits for .* chain, or a chord") as error:
            result.get(timeout=10)
        assert isinstance(error.value, (RuntimeError, PoolrtError))
    assert tasks.allowed.delay(4).get(timeout=20) == [8, 8, 8]
    assert tasks.allowed_on_a_loop.delay(4).get(timeout=20) == [8, 8]
    done = tasks.double.delay(3)
    assert done.get(timeout=10) == 6
    assert tasks.only_looks.delay(done.id).get(timeout=10) == 6
