"""Options of tasks and calls: checked where they are written, each mistake told in one line."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from poolrt import Middleware, Task
from poolrt.app.app import App
from poolrt.app.calls import CallOptions
from poolrt.app.options import TaskOptions, parse_rate, wall_time
from poolrt.errors import ConfigurationError


@pytest.mark.parametrize(
    ("rate", "a_second"),
    [("100/s", 100), ("30/m", 0.5), ("36 / h", 0.01), ("0.5/s", 0.5), (7, 7), (0.25, 0.25), ("5", 5)],
)
def test_rates(rate: Any, a_second: float) -> None:
    """A rate is so many a second, minute or hour; a bare number is a second's, as in Celery."""
    assert parse_rate(rate) == pytest.approx(a_second)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate_limit": "100/d"}, "rate_limit='100/d' is no rate; write for example 100/s, 10/m or 5/h"),
        ({"rate_limit": "0/s"}, "is no rate"),
        ({"rate_limit": -1}, "is no rate"),
        ({"rate_limit": True}, "is no rate"),
        ({"max_concurrency": 0.5}, "max_concurrency is a whole number from 1"),
        ({"max_concurrency": -1}, "max_concurrency is a whole number from 1"),
        ({"max_concurrency": True}, "max_concurrency is a whole number from 1"),
        ({"limit_key": "x"}, "give one of them"),
        ({"limit_key": "", "rate_limit": 1}, "limit_key is ''"),
        ({"limit_key": "a\0b", "rate_limit": 1}, "printable bytes"),
        ({"limit_key": 5, "rate_limit": 1}, "limit_key is 5: use a text"),
        ({"unique": "yes"}, "unique is True or False, not 'yes'"),
        ({"unique": False, "unique_for": "1h"}, "unique is False"),
        ({"unique_key": "x"}, "unique_key is a function of the task's arguments"),
        ({"unique_for": "soon"}, "not a duration"),
        ({"retry_for": 5}, "retry_for takes exception classes, not 5"),
        ({"no_retry_for": "OSError"}, "no_retry_for takes exception classes, not 'O'"),
        ({"retry_backoff_max": "soon"}, "not a duration"),
        ({"retry_within": -1}, "not a duration"),
        ({"retry_jitter": 1}, "retry_jitter is True or False, not 1"),
        ({"max_retries": "3"}, "max_retries is a whole number, or None for no end, not '3'"),
        ({"max_retries": True}, "max_retries is a whole number"),
        ({"track_started": 1}, "track_started is True or False"),
        ({"result_ttl": "x"}, "not a duration"),
        ({"queue": ""}, "queue is a name"),
        ({"queue": "a\0b"}, "queue is a name"),
        ({"base": int}, "base is a subclass of poolrt.Task, not <class 'int'>"),
        ({"autoretry_for": OSError}, "autoretry_for"),
    ],
)
def test_wrong_options_of_tasks(options: dict[str, Any], said: str) -> None:
    """Each is refused when the task is declared, in one line."""
    app = App("shop", "sqlite:////nowhere/never.db")
    with pytest.raises(ConfigurationError) as error:
        app.task(**options)(lambda: None)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": {"a": 1}}, "headers are texts by name, not 1"),
        ({"headers": "a"}, "headers are texts by name, not 'a'"),
        ({"ignore_result": "no"}, "ignore_result is True or False, not 'no'"),
        ({"track_started": 1}, "track_started is True or False"),
        ({"result_ttl": "x"}, "not a duration"),
        ({"max_retries": -1}, "max_retries must be 0 or more"),
        ({"queue": 5}, "queue is a name"),
        ({"task_id": 5}, "task_id 5: use 1 to 120 printable bytes"),
    ],
)
def test_wrong_options_of_calls(options: dict[str, Any], said: str) -> None:
    """Each is refused when the call is made, in one line."""
    with pytest.raises(ConfigurationError) as error:
        CallOptions.parse(**options)
    assert said in str(error.value)


def test_none_is_the_default_but_for_retries() -> None:
    """None means that nothing was said; of max_retries, that they have no end."""
    assert TaskOptions.parse(queue=None, rate_limit=None, unique_for=None) == TaskOptions()
    assert TaskOptions.parse(max_retries=None).max_retries is None


def test_unique_by_key_or_time_is_unique() -> None:
    """Who says how a task is unique need not say that it is."""
    assert TaskOptions.parse(unique_for="1m").unique
    assert TaskOptions.parse(unique_key=str).unique


def test_options_by_value() -> None:
    """By value only what differs from the defaults travels; an option that this release does not know is left out."""
    options = TaskOptions.parse(rate_limit="5/s", retry_for=OSError, max_retries=None)
    assert pickle.loads(pickle.dumps(options)) == options
    make, (given,) = options.__reduce__()
    assert given == {"rate": 5.0, "retry_for": (OSError,), "max_retries": None}
    assert make({**given, "of_a_newer_release": 1}) == options


def test_options_in_a_class(app: App) -> None:
    """What stands in the class is the default; what is derived or declared goes before it."""

    class Mail(Task[..., Any]):
        queue = "mail"
        max_retries = 5
        retry_for = OSError
        rate_limit = "10/s"

    class Urgent(Mail):
        queue = "urgent"
        max_retries = None

    options = app.task(base=Urgent, rate_limit="20/s", name="send")(lambda: None).options
    assert (options.queue, options.max_retries, options.retry_for, options.rate) == ("urgent", None, (OSError,), 20)
    assert options.base is Urgent


@pytest.fixture
def app() -> App:
    """An app whose broker is never opened."""
    return App("shop", "sqlite:////nowhere/never.db")


# ---- classes with run


class Mail(Task[[str], str]):
    """A task as a class."""

    priority = 4

    def run(self, to: str) -> str:
        """Send."""
        return f"{self.name}: {to}"


def test_register_task(app: App) -> None:
    """An object of a class with ``run`` is a task of the class's name; the same object comes back."""
    mail = Mail()
    assert app.register_task(mail) is mail
    assert app.tasks == {mail.name: mail}
    assert mail.name == f"{__name__}.Mail"
    assert (mail.options.priority, mail.options.base, mail.by_value) == (4, Mail, False)
    assert mail("me") == mail.run("me") == f"{__name__}.Mail: me"
    app.register_task(Mail())  # as a reload does
    assert app.register_task(Mail(), name="send", queue="q").options.queue == "q"
    assert app.tasks["send"]("you") == "send: you"


def test_register_task_refuses(app: App) -> None:
    """What is no task, or has nothing to run."""
    with pytest.raises(ConfigurationError, match="Task has no method run"):
        app.register_task(Task())
    with pytest.raises(ConfigurationError, match=r"is a subclass of poolrt\.Task, not <class 'int'>"):
        app.register_task(5)  # type: ignore[type-var]


def test_task_base(app: App) -> None:
    """The app's own class of tasks is that of each that names none, its options included."""

    class Base(Task[..., Any]):
        queue = "b"

    app = App("shop", "sqlite:////nowhere/never.db", task_base=Base)
    task = app.task(name="t")(lambda: None)
    assert (type(task), task.options.queue) == (Base, "b")
    assert type(app.task(name="u", base=Mail)(lambda: None)) is Mail
    with pytest.raises(ConfigurationError, match=r"task_base is a subclass of poolrt\.Task, not 'x'"):
        App("shop", "sqlite:////nowhere/never.db", task_base="x")  # type: ignore[arg-type]


def test_a_base_needs_no_arguments(app: App) -> None:
    """A class that cannot be made is told where it is used."""

    class Needy(Task[..., Any]):
        def __init__(self, host: str) -> None:
            self.host = host

    with pytest.raises(ConfigurationError, match=r"Needy\(\) must need no arguments"):
        app.task(base=Needy)(lambda: None)
    registered = type("Kind", (Needy,), {"run": lambda self: self.host})("db")
    assert app.register_task(registered, name="ours")() == "db"


def test_hooks_are_not_async(app: App) -> None:
    """An async hook would never be awaited: refused where it is used."""

    async def hook(*_: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Late\.on_success is async: hooks are ordinary functions"):
        app.task(base=type("Late", (Task,), {"on_success": hook}))(lambda: None)
    with pytest.raises(ConfigurationError, match=r"Late\.before_run is async"):
        App("x", "sqlite:////nowhere/x.db", middleware=[type("Late", (Middleware,), {"before_run": hook})()])


def test_a_moment_is_an_aware_datetime() -> None:
    """A text is refused by one line, as a naive datetime is."""
    with pytest.raises(ConfigurationError, match=r"eta is an aware datetime, not '2030-01-01'; .*countdown="):
        wall_time("2030-01-01", "eta")  # type: ignore[arg-type]
