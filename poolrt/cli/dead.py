"""``poolrt dead``: what was given up, and what is known of how it ended; read from the broker, no node need run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from poolrt.cli.opened_broker import broker_option, opened_broker
from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.errors import ConfigurationError, DecodingError, ExitCode

if TYPE_CHECKING:
    from poolrt.brokers.base import Found
    from poolrt.message import Record

SCHEMA: Final = 1
"""Version of the ``--json`` object; raised when a key changes its meaning or goes."""

F = TypeVar("F", bound=Callable[..., Any])


class ListCommand(SectionedCommand):
    """``dead list`` with its examples."""

    examples = (
        ("poolrt dead list proj.tasks:app", "the newest hundred"),
        ("poolrt dead list --broker sqlite:///proj.db --json", "for a script, without importing the app"),
    )


class ShowCommand(SectionedCommand):
    """``dead show`` with its examples."""

    examples = (
        ("poolrt dead show 0192f0c2-aaaa-7bbb-8ccc-0123456789ab proj.tasks:app", "one crash report"),
        ("poolrt dead show ID proj.tasks:app --show-arguments", "with the values that the task was called with"),
    )


def _which_broker(function: F) -> F:
    return click.argument("app", required=False, metavar="[APP]", envvar="POOLRT_APP")(broker_option(function))


_json_option = click.option(
    "--json", "as_json", is_flag=True, cls=SectionedOption, section="Output", help="Print one JSON object."
)


class DeadCommands(SectionedCommand, click.Group):
    """``dead``, which shows its commands and an example of each."""

    examples = (ListCommand.examples[0], ShowCommand.examples[0])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and below them the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=DeadCommands, context_settings=CONTEXT, invoke_without_command=True)
@click.pass_context
def dead(ctx: click.Context) -> int:
    """Look at dead tasks, and at how they ended.

    A task is dead when it was given up; what is known of it is kept for seven days.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return ExitCode.USAGE
    return ExitCode.OK


@dead.command("list", cls=ListCommand, context_settings=CONTEXT)
@_which_broker
@click.option(
    "--limit", type=click.IntRange(1), default=100, cls=SectionedOption, section="Output", metavar="N",
    default_text="100", help="Show at most so many, the newest.",
)  # fmt: skip
@_json_option
@verbose_option
def list_dead(app: str | None, broker: str | None, *, limit: int, as_json: bool) -> int:
    """List the dead tasks of APP, the newest first.

    APP is module:attribute, for example proj.tasks:app; it is imported, to know its broker.
    """
    from poolrt.states import TaskState

    with opened_broker(app, broker) as opened:
        ended = [(found.id, _record_of(found)) for found in opened.ended(TaskState.DEAD, limit)]
    if as_json:
        listed = [{"id": task_id, **_summary(record)} for task_id, record in ended if record is not None]
        click.echo(json.dumps({"schema": SCHEMA, "dead": listed}))
    else:
        _print_list(ended)
    return ExitCode.OK


@dead.command("show", cls=ShowCommand, context_settings=CONTEXT)
@click.argument("task_id", metavar="ID")
@_which_broker
@click.option(
    "--show-arguments", is_flag=True, cls=SectionedOption, section="Output",
    help="Show the values of the task's arguments, not only their types and sizes.",
)  # fmt: skip
@_json_option
@verbose_option
def show(task_id: str, app: str | None, broker: str | None, *, show_arguments: bool, as_json: bool) -> int:
    """Show how the task ID ended: its crash report.

    That is its cause, stacks, memory, connections and last output. Any task that has ended can be shown, also one that
    failed by a limit. APP is module:attribute; it is imported, to know its broker. Exit code 2: the broker knows no
    such task, or it has not ended.
    """
    from poolrt.hygiene.crash_report import describe

    with opened_broker(app, broker) as opened:
        found = opened.find(task_id)
        record = None if found is None else _record_of(found)
        if found is None:
            raise ConfigurationError(f"task {task_id} is unknown to {opened.url}: never enqueued, or past its TTL")
        if record is None:
            raise ConfigurationError(f"task {task_id} is {found.state}: there is no record of its end")
        call = _call(record, trusted=opened.trusted, values=show_arguments)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "id": task_id, "call": call, **_summary(record), **_details(record)}))
    else:
        _print_facts([("id", task_id), ("call", call)] if call else [("id", task_id)], describe(record))
    return ExitCode.OK


def _record_of(found: Found) -> Record | None:
    from poolrt.message import decode_record

    return None if found.record is None else decode_record(found.record)


def _call(record: Record, *, trusted: bool, values: bool) -> str:
    """The call that the record's message asked for; empty where the message is not kept or cannot be read."""
    from poolrt.hygiene.crash_report import describe_call
    from poolrt.message import decode_message

    if record.envelope is None:
        return ""
    try:
        return describe_call(decode_message(record.envelope), trusted=trusted, show=values)
    except DecodingError as error:
        return f"unreadable: {error}"


def _summary(record: Record) -> dict[str, Any]:
    error = record.error
    return {
        "task": record.task, "state": str(record.state), "finished_at": record.finished_at,
        "error": None if error is None else {"type": error.type, "text": error.text},
        "attempt": record.attempt, "lost": record.lost,
    }  # fmt: skip


def _details(record: Record) -> dict[str, Any]:
    import msgspec

    from poolrt.hygiene.crash_report import last_lines, report_of

    report = report_of(record)
    shown = None
    if report is not None:
        output = {name: last_lines(getattr(report, name)) for name in ("stdout", "stderr")}
        shown = {**msgspec.structs.asdict(report), **output}
    return {
        "runtime": record.runtime, "owner": record.owner, "status": record.status, "peak_memory": record.peak_memory,
        "traceback": record.error.traceback if record.error is not None else "", "stack": record.stack,
        "report": shown,
    }  # fmt: skip


def _print_list(ended: list[tuple[str, Record | None]]) -> None:
    """A line each, however wide the terminal: the ids are there to be copied."""
    from rich.text import Text

    from poolrt.cli.pool_view import cell, make_console

    if not ended:
        click.echo("nothing is dead")
        return
    console = make_console()
    for task_id, record in ended:
        if record is not None:
            when = f"{datetime.fromtimestamp(record.finished_at):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ006  local, as logs are
            cause = f"{record.error.type}: {record.error.text}" if record.error is not None else ""
            parts = (cell(when, "dim"), cell(task_id), cell(record.task or "unknown", "cyan"), cell(cause))
            console.print(Text("  ").join(parts), soft_wrap=True)


def _print_facts(first: list[tuple[str, str]], facts: list[Any]) -> None:
    from rich.text import Text

    from poolrt.cli.pool_view import make_console
    from poolrt.hygiene.crash_report import Fact

    console = make_console()
    for fact in (*(Fact(*each) for each in first), *facts):
        if fact.is_block:
            console.print(Text(f"{fact.name}", style="bold"))
            console.print(Text("\n".join(f"  {line}" for line in fact.text.splitlines())), soft_wrap=True)
        else:
            console.print(Text(f"{fact.name:<10}", style="dim") + Text(fact.text), soft_wrap=True)
