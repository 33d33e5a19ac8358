"""``poolrt enqueue``: one call of a task, from the shell; with ``--wait`` also its result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from poolrt.cli.opened_broker import app_and, import_app
from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, json_option, verbose_option
from poolrt.errors import ConfigurationError, ExitCode, ResultTimeout, TaskFailed
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.app.task import Task
    from poolrt.brokers.base import Broker
    from poolrt.message import Record

F = TypeVar("F", bound=Callable[..., object])

SCHEMA: Final = 1
"""Version of the ``--json`` object; raised when a key changes its meaning or goes."""
_KEYWORD: Final = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)
_FOREVER: Final = "for ever"


class EnqueueCommand(SectionedCommand):
    """``enqueue`` with its examples."""

    examples = (
        ("poolrt enqueue proj.tasks:app resize photo.jpg width=300 --id order-17 --countdown 1h", "prints its id"),
        ("poolrt enqueue proj.tasks:app proj.tasks.add 2 3 --wait=20s", "prints its result"),
        ("""poolrt enqueue proj.tasks:app add --kwargs '{"a": 2, "b": -3}' --json""", "for a script"),
        ("poolrt enqueue proj.tasks:app add -- -2 3", "behind -- nothing is a flag"),
    )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``--wait`` alone not take the word behind it for its value."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(
            ctx, [f"--wait={_FOREVER}" if word == "--wait" and at < end else word for at, word in enumerate(args)]
        )


def _option(flag: str, metavar: str, text: str, **settings: Any) -> Callable[[F], F]:
    return click.option(flag, cls=SectionedOption, section="Call", metavar=metavar, help=text, **settings)


@click.command(cls=EnqueueCommand, context_settings=CONTEXT)
@app_and("TASK [ARG...]")
@_option("--kwargs", "JSON", "Keyword arguments, as a JSON object.", default="")
@_option("--queue", "QUEUE", "The queue, instead of the task's own.", default=None)
@_option("--priority", "N", "0 to 9; 9 runs first.", type=int, default=None)
@_option("--countdown", "DURATION", "Do not start it before so much time has passed, such as 5m.", default=None)
@_option("--eta", "TIME", "Do not start it before this moment, such as 2026-12-24T18:00+01:00.", default=None)
@_option("--expires", "TIME", "Do not start it after this moment, or this duration from now.", default=None)
@_option("--id", "ID", "Its id; if that is known already, nothing is enqueued.", default=None)
@click.option(
    "--wait", cls=SectionedOption, section="Output", metavar="[=DURATION]", default=None,
    help="Wait for it to end, at most so long, and print its result: a text as it is, all else as JSON.",
)  # fmt: skip
@json_option
@verbose_option
def enqueue(
    app: str, words: tuple[str, ...], *, kwargs: str, queue: str | None, priority: int | None, countdown: str | None,
    eta: str | None, expires: str | None, id: str | None, wait: str | None, as_json: bool,  # noqa: A002  the flag
) -> int:  # fmt: skip
    """Enqueue a call of TASK and print its id.

    APP is module:attribute; it is imported. TASK is the name of one of its tasks, or the end of it. Each ARG is a JSON
    value (2, true, null, '[1, 2]') or else a text as it stands; name=value is a keyword argument, its value read
    alike. Write a text that looks like either as JSON: '"2"', '"a=b"'.

    Exit codes with --wait: 10 if it ended without a value, 11 if it did not end in time (it goes on).
    """
    from poolrt.units import parse_duration

    timeout = None if wait in {None, _FOREVER} else parse_duration(str(wait))
    opened = import_app(app)
    try:
        chosen = chosen_task(opened, words[0])
        args, named = arguments(words[1:], kwargs)
        check_call(chosen, args, named)
        if wait is not None and chosen.options.ignore_result:
            raise ConfigurationError(f"{chosen.name} keeps no result: there is nothing to wait for")
        result = chosen.apply_async(
            args, named, countdown=countdown, eta=_moment(eta, "--eta"), queue=queue, priority=priority,
            expires=_until(expires), task_id=id,
        )  # fmt: skip
        if wait is None:
            click.echo(json.dumps({"schema": SCHEMA, "id": result.id}) if as_json else result.id)
            return ExitCode.OK
        return _waited(opened.broker, result.id, timeout, as_json=as_json)
    finally:
        opened.close()


# ---- what is called


def chosen_task(app: App, name: str) -> Task[Any, Any]:
    """The task of this name, or the only one whose name ends with it behind a dot. Raises ConfigurationError."""
    if name in app.tasks:
        return app.tasks[name]
    ending = [each for each in app.tasks if each.endswith(f".{name}")]
    if len(ending) == 1:
        return app.tasks[ending[0]]
    if ending:
        raise ConfigurationError(f"{name!r} may be any of {', '.join(sorted(ending))}: write more of the name")
    import difflib

    short = {each.rpartition(".")[2]: each for each in app.tasks}
    near = difflib.get_close_matches(name, [*app.tasks, *short], n=1)
    all_of_them = ", ".join(sorted(app.tasks)) or "none"
    hint = f"did you mean {short.get(near[0], near[0])}?" if near else f"it has {all_of_them}"
    raise ConfigurationError(f"app {app.name!r} has no task {name!r} ({hint})")


def arguments(words: Sequence[str], kwargs: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments that the words and ``--kwargs`` say. Raises ConfigurationError."""
    named: Any = {}
    if kwargs:
        named = value_of(kwargs)
        if not isinstance(named, dict):
            raise ConfigurationError("--kwargs is not a JSON object, such as '{\"width\": 300}'")
    args: list[Any] = []
    for word in words:
        keyword = _KEYWORD.fullmatch(word)
        if keyword is None:
            args.append(value_of(word))
        elif keyword[1] in named:
            raise ConfigurationError(f"the argument {keyword[1]} is given twice")
        else:
            named[keyword[1]] = value_of(keyword[2])
    return args, named


def value_of(word: str) -> Any:
    """The JSON value that the word is, or else the word."""
    import msgspec

    try:
        return msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return word


def check_call(task: Task[Any, Any], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a call that the function does not take, before anything is enqueued; never tells a value.

    Raises:
        ConfigurationError: naming the argument.
    """
    import inspect

    try:
        signature = inspect.signature(task.function)
    except (TypeError, ValueError):  # a builtin does not say
        return
    try:
        signature.bind(*([None] if task.options.bind else []), *args, **kwargs)
    except TypeError as error:
        raise ConfigurationError(f"{task.name}{signature} does not take this call: {error}") from None


def _moment(text: str | None, flag: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{flag} {text!r} is no moment; write for example 2026-12-24T18:00+01:00") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{flag} {text!r} has no time zone; write {text}Z, or {text}+01:00")
    return moment


def _until(text: str | None) -> str | datetime | None:
    """``--expires``: a duration as it is written, or a moment."""
    return text if text is None or re.fullmatch(r"[\d.]+|([\d.]+[a-z]+)+", text) else _moment(text, "--expires")


# ---- what it returned


def _waited(broker: Broker, task_id: str, timeout: float | None, *, as_json: bool) -> int:
    """Print how the task ended. Raises ResultTimeout; or TaskFailed, which is told in JSON where that is asked for."""
    from poolrt.message import decode_record

    try:
        found = broker.wait(task_id, timeout)
    except KeyboardInterrupt:
        click.echo(f"poolrt: task {task_id} goes on", err=True)
        raise
    if found is None or found.record is None:
        if broker.find(task_id) is None:
            raise TaskFailed(f"task {task_id} ended without a record, or was forgotten")
        if as_json:
            click.echo(json.dumps({"schema": SCHEMA, "id": task_id, "state": None, "result": None, "error": None}))
        raise ResultTimeout(f"task {task_id} has not ended within {timeout:g} s; it goes on")
    record = decode_record(found.record)
    value, error = _value(record, trusted=broker.trusted), record.error
    if as_json:
        told = None if error is None else {"type": error.type, "text": error.text, "traceback": error.traceback}
        shown = {"id": task_id, "state": str(record.state), "result": value, "error": told}
        click.echo(json.dumps({"schema": SCHEMA, **shown}))
    if record.state is not TaskState.SUCCEEDED:
        cause = f": {error.type}: {error.text}" if error else ""
        raise TaskFailed(f"{record.task}#{task_id} {record.state}{cause}")
    if not as_json:
        click.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return ExitCode.OK


def _value(record: Record, *, trusted: bool) -> Any:
    """The value that the task returned; its repr if JSON cannot carry it, None if it has none.

    Raises:
        DecodingError: it cannot be read here.
    """
    from poolrt.codec import JSON, decode

    if record.value is None:
        return None
    value = decode(record.codec, record.value, trusted=trusted)
    return value if record.codec == JSON else repr(value)
