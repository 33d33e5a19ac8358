"""``poolrt task``: look at tasks, cancel them, and enqueue again those that ended. No node need run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from poolrt.cli.opened_broker import app_and, ids_from, opened_broker
from poolrt.cli.options import (
    CONTEXT,
    SectionedCommand,
    SectionedGroup,
    SectionedOption,
    confirm,
    explain_if_alone,
    json_option,
    verbose_option,
    yes_option,
)
from poolrt.cli.task_choice import Choice, choice_options, listed, states_of, waiting_or_running
from poolrt.errors import DecodingError, ExitCode, TaskRefused

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker
    from poolrt.hygiene.crash_report import Fact

SCHEMA: Final = 1
"""Version of the ``--json`` objects; raised when a key changes its meaning or goes."""

limit_option = click.option(
    "--limit", type=click.IntRange(1), default=100, cls=SectionedOption, section="Output", metavar="N",
    default_text="100", help="Show at most so many.",
)  # fmt: skip
ids_option = click.option(
    "--ids", "ids_only", is_flag=True, cls=SectionedOption, section="Output",
    help="Print the ids alone, one a line, for a command that takes them as '-'.",
)  # fmt: skip
arguments_option = click.option(
    "--arguments", is_flag=True, cls=SectionedOption, section="Output",
    help="Show the values of the task's arguments, not only their types and sizes.",
)  # fmt: skip


@click.group(
    cls=SectionedGroup, context_settings=CONTEXT, invoke_without_command=True,
    examples=(("poolrt task list proj.tasks:app", "what runs and what waits"),),
)  # fmt: skip
@click.pass_context
def task(ctx: click.Context) -> int:
    """Look at tasks, cancel them, retry them."""
    return explain_if_alone(ctx)


@task.command(
    "list", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt task list proj.tasks:app", "what runs and what waits"),
        ("poolrt task list proj.tasks:app --state failed,dead --task 'proj.*'", "what went wrong last"),
        ("poolrt task list sqlite:///proj.db --state all --json", "for a script, without importing the app"),
    ),
)  # fmt: skip
@app_and()
@click.option(
    "--state", "states", multiple=True, cls=SectionedOption, section="Choice", metavar="STATE", default_text="live",
    help="Only these, with commas or repeated: queued, delayed, reserved (a child has it), started, or one that tasks "
    "give themselves; succeeded, failed, cancelled, expired, dead; live, which is all that have not ended; all.",
)  # fmt: skip
@choice_options("task", "queue", "root")
@limit_option
@ids_option
@json_option
@verbose_option
def list_tasks(
    app: str, *, states: tuple[str, ...], task: str, queue: str, root: str, limit: int, ids_only: bool, as_json: bool
) -> int:
    """List tasks, by default those that run or wait.

    What runs comes first, then what waits, then what has ended, the newest first. APP is module:attribute, or its
    broker's URL; then nothing is imported. Of what has ended, the 10,000 newest of each
    state are searched. What succeeded is known by name and id alone: it has no queue and no root any more.
    """
    from poolrt.cli.task_facts import summary

    with opened_broker(app) as broker:
        found = listed(broker, states_of(states), Choice(task, queue, root), limit)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "tasks": [summary(each) for each in found]}))
    elif ids_only:
        print_lines(each.found.id for each in found)
    elif not found:
        click.echo("there is no such task" if states or task or queue or root else "no task waits or runs")
    else:
        print_table([summary(each) for each in found])
    return ExitCode.OK


@task.command(
    "show", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt task show proj.tasks:app order-17", "state, times, attempts, error"),
        ("poolrt task show proj.tasks:app order-17 --arguments", "with the values that it was called with"),
        ("poolrt task show proj.tasks:app order-17 --tree", "each part of the workflow that it is in or ends"),
    ),
)  # fmt: skip
@app_and("ID", most=1)
@arguments_option
@click.option("--tree", is_flag=True, help="Instead, where each part of its workflow is.")
@json_option
@verbose_option
def show(app: str, words: tuple[str, ...], *, arguments: bool, tree: bool, as_json: bool) -> int:
    """Show what is known of a task.

    State, queue, times, attempts, error. Arguments are told by type and size, and results not at all. Exit code 12:
    the broker knows no such task.
    """
    if tree:
        return show_tree(app, words[0], as_json=as_json)
    return show_task(app, words[0], arguments=arguments, as_json=as_json, ended=False)


def show_tree(app: str, task_id: str, *, as_json: bool) -> int:
    """Print the workflow of a task, or whose result the task is. Raises TaskRefused."""
    from poolrt.app.canvas.found import tree_of_root
    from poolrt.message import decode_message, decode_record

    with opened_broker(app) as broker:
        found = broker.find(task_id)
        if found is None:
            raise TaskRefused(f"task {task_id} is unknown to {broker.url}: never enqueued, or past its TTL")
        envelope = found.envelope
        if envelope is None and found.record is not None:
            envelope = decode_record(found.record).envelope
        told = tree_of_root(broker, decode_message(envelope).root if envelope is not None else task_id)
    click.echo(json.dumps({"schema": SCHEMA, "tree": told.to_dict()}) if as_json else str(told))
    return ExitCode.OK


def show_task(app: str, task_id: str, *, arguments: bool, as_json: bool, ended: bool) -> int:
    """Print one task; only one that has ended where ``ended``. Raises TaskRefused."""
    from poolrt.cli.task_facts import Task, details, facts, summary

    with opened_broker(app) as broker:
        found = broker.find(task_id)
        if found is None:
            raise TaskRefused(f"task {task_id} is unknown to {broker.url}: never enqueued, or past its TTL")
        if ended and found.record is None:
            raise TaskRefused(f"task {task_id} is {found.state}: there is no record of its end")
        shown, trusted = Task.of(found), broker.trusted
    if as_json:
        told = {**summary(shown), **details(shown, trusted=trusted, arguments=arguments)}
        click.echo(json.dumps({"schema": SCHEMA, **told}))
    else:
        print_facts(facts(shown, trusted=trusted, arguments=arguments, now=time.time()))
    return ExitCode.OK


@task.command(
    "cancel", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt task cancel proj.tasks:app order-17", "whether it waits or runs"),
        ("poolrt task cancel proj.tasks:app --task 'mail.*' --yes", "every one of these names that waits or runs"),
    ),
)  # fmt: skip
@app_and("[ID...]", least=0)
@choice_options("task", "queue", "root")
@yes_option
@json_option
@verbose_option
def cancel(app: str, words: tuple[str, ...], *, task: str, queue: str, root: str, yes: bool, as_json: bool) -> int:
    """Cancel tasks that wait or run.

    Those named (- reads ids from stdin), or all that the options choose.

    What waits has ended as cancelled at once. What runs is cancelled by its node, within moments, unless it ends by
    itself first. Exit code 12: a task that was named has ended, or is unknown; the others are cancelled.
    """
    from poolrt.app.result import AsyncResult

    choice = Choice(task, queue, root)
    refuse_both(words, chosen=bool(choice), options="--task, --queue or --root")
    with opened_broker(app) as broker:

        def attempt(task_id: str) -> str:
            return "" if AsyncResult[Any](task_id, broker).cancel() else _why_not(broker, task_id)

        if not choice:
            return report(each_of(ids_from(words), attempt), "cancelled", as_json=as_json)
        ids = [each.found.id for each in waiting_or_running(broker, choice)]
        if ids:
            confirm(f"Cancel {choice}, of which {len(ids):,} wait or run?", yes=yes)
        done: dict[str, str] = {}
        while ids:
            done.update(each_of(ids, attempt))
            found = waiting_or_running(broker, choice) if root else ()  # its line may have grown before it ended
            ids = [each.found.id for each in found if each.found.id not in done]
        return report({task_id: why for task_id, why in done.items() if not why}, "cancelled", as_json=as_json)


def _why_not(broker: Broker, task_id: str) -> str:
    found = broker.find(task_id)
    return f"it has ended: {found.state}" if found else "it is unknown: never enqueued, or past its TTL"


@task.command(
    "retry", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt task retry proj.tasks:app order-17", "the same call, again"),
        (
            "poolrt task list proj.tasks:app --state failed --ids | poolrt task retry proj.tasks:app -",
            "those that another command names",
        ),
    ),
)  # fmt: skip
@app_and("ID...")
@json_option
@verbose_option
def retry(app: str, words: tuple[str, ...], *, as_json: bool) -> int:
    """Enqueue tasks again that have ended.

    Those that failed, died, expired or were cancelled: the same call under the same ID (- reads ids from stdin). It
    begins with its first attempt, at once; what is known of the attempts before stays. Exit code 12: a task that
    was named has not ended, succeeded, or is unknown; the others are enqueued.
    """
    with opened_broker(app) as broker:
        return report(each_of(ids_from(words), retrying(broker)), "retried", as_json=as_json)


def retrying(broker: Broker) -> Callable[[str], str]:
    """What enqueues an ended task again, given its id; and says why not."""
    from poolrt.app.retried import retry_ended

    def attempt(task_id: str) -> str:
        try:
            return retry_ended(broker, task_id, time.time())
        except DecodingError as error:
            return f"it cannot be read: {error}"

    return attempt


# ---- what is done to many


def refuse_both(words: Iterable[str], *, chosen: bool, options: str) -> None:
    """Refuse ids beside options that choose, and neither. Raises click.UsageError."""
    if chosen and words:
        raise click.UsageError(f"name ids, or choose with {options}, not both")
    if not chosen and not words:
        raise click.UsageError(f"name ids, or choose with {options}")


def each_of(ids: Iterable[str], attempt: Callable[[str], str]) -> dict[str, str]:
    """``attempt`` of each id: empty for what was done, else why not."""
    return {task_id: attempt(task_id) for task_id in ids}


def report(tried: Mapping[str, str], done: str, *, as_json: bool) -> int:
    """Say what was done, on stdout, and what was not, on stderr; the exit code.

    Args:
        tried: ids, each with why not.
        done: the word for what was done.
        as_json: as one object.
    """
    refused = {task_id: why for task_id, why in tried.items() if why}
    ids = [task_id for task_id in tried if task_id not in refused]
    if as_json:
        told = [{"id": task_id, "reason": why} for task_id, why in refused.items()]
        click.echo(json.dumps({"schema": SCHEMA, done: ids, "refused": told}))
    else:
        print_lines(ids)
        for task_id, why in refused.items():
            click.echo(f"poolrt: {task_id} is not {done}: {why}", err=True)
        click.echo(f"{len(ids):,} {done}", err=True)
    return ExitCode.TASK_REFUSED if refused else ExitCode.OK


# ---- how it is printed


def print_lines(lines: Iterable[str]) -> None:
    """A line each, as they are."""
    for line in lines:
        click.echo(line)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """A row a task: when it is due, or since when it has ended or waits. Ids are never cut, they are to be copied."""
    from poolrt.cli.pool_view import Column, fitted_table, make_console
    from poolrt.cli.task_facts import distance

    now = time.time()
    columns = [
        Column("ID", lambda row: row["id"]),
        Column("STATE", lambda row: row["state"]),
        Column("TASK", lambda row: row["task"] or "–", least=12),
        Column("QUEUE", lambda row: row["queue"] or "–", drop=2, least=10, cut_end=True),
        Column("ATTEMPT", lambda row: row["attempt"] or "–", right=True, drop=1),
        Column("WHEN", lambda row: distance(_when(row), now) if _when(row) else "–", right=True, drop=3),
        Column("CAUSE", _cause, drop=4, least=15, cut_end=True),
    ]
    if not any(map(_cause, rows)):
        columns.pop()
    console = make_console()
    console.print(fitted_table(columns, rows, console.width))


def _when(row: Mapping[str, Any]) -> float:
    due = row["eta"] if row["state"] == "delayed" else None
    return float(due or row["finished_at"] or row["enqueued_at"] or 0.0)


def _cause(row: Mapping[str, Any]) -> str:
    return f"{row['error']['type']}: {row['error']['text']}" if row["error"] else ""


def print_facts(facts: Iterable[Fact]) -> None:
    """A line each, and below those what takes several."""
    from rich.text import Text

    from poolrt.cli.pool_view import make_console, printable

    console = make_console()
    for fact in facts:
        if fact.is_block:
            console.print(Text(fact.name, style="bold"))
            console.print(Text("\n".join(f"  {printable(line)}" for line in fact.text.splitlines())), soft_wrap=True)
        else:
            console.print(Text.assemble((f"{fact.name:<10}", "dim"), printable(fact.text)), soft_wrap=True)
