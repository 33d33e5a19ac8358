"""``poolrt dead``: what was given up, what is known of how it ended, and what becomes of it. No node need run."""

from __future__ import annotations

import json
import time
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

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
from poolrt.cli.task import (
    arguments_option,
    each_of,
    ids_option,
    limit_option,
    print_lines,
    refuse_both,
    report,
    retrying,
    show_task,
)
from poolrt.cli.task_choice import Choice, choice_options, ended
from poolrt.errors import ExitCode
from poolrt.states import TaskState
from poolrt.units import format_duration, parse_duration

if TYPE_CHECKING:
    from poolrt.cli.task_facts import Task

SCHEMA: Final = 1
"""Version of the ``--json`` objects; raised when a key changes its meaning or goes."""


@click.group(
    cls=SectionedGroup, context_settings=CONTEXT, invoke_without_command=True,
    examples=(("poolrt dead list proj.tasks:app", "the newest hundred"),),
)  # fmt: skip
@click.pass_context
def dead(ctx: click.Context) -> int:
    """Look at dead tasks and how they ended, retry them, delete them.

    A task is dead when it was given up; what is known of it is kept for seven days.
    """
    return explain_if_alone(ctx)


@dead.command(
    "list", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt dead list proj.tasks:app", "the newest hundred"),
        ("poolrt dead list sqlite:///proj.db --json", "for a script, without importing the app"),
    ),
)  # fmt: skip
@app_and()
@choice_options("task", "queue")
@limit_option
@ids_option
@json_option
@verbose_option
def list_dead(app: str, *, task: str, queue: str, limit: int, ids_only: bool, as_json: bool) -> int:
    """List the dead tasks of APP, the newest first.

    APP is module:attribute, imported to know its broker, or the broker's URL.
    """
    from poolrt.cli.task_facts import summary

    with opened_broker(app) as broker:
        found = list(islice(ended(broker, TaskState.DEAD, Choice(task, queue)), limit))
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "dead": [summary(each) for each in found]}))
    elif ids_only:
        print_lines(each.found.id for each in found)
    else:
        _print_list(found)
    return ExitCode.OK


@dead.command(
    "show", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt dead show proj.tasks:app order-17", "one crash report"),
        ("poolrt dead show proj.tasks:app order-17 --arguments", "with the values that the task was called with"),
    ),
)  # fmt: skip
@app_and("ID", most=1)
@arguments_option
@json_option
@verbose_option
def show(app: str, words: tuple[str, ...], *, arguments: bool, as_json: bool) -> int:
    """Show how a task ended: its crash report.

    That is its cause, stacks, memory, connections and last output. Any task that has ended can be shown, also one that
    failed by a limit. Exit code 12: the broker knows no such task, or it has not ended.
    """
    return show_task(app, words[0], arguments=arguments, as_json=as_json, ended=True)


_all_option = click.option(
    "--all", "everything", is_flag=True, cls=SectionedOption, section="Choice", help="All that are dead."
)


@dead.command(
    "retry", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt dead retry proj.tasks:app --task 'mail.*' --limit 1", "one, to see whether it is mended"),
        ("poolrt dead retry proj.tasks:app --all --yes", "all the others"),
    ),
)  # fmt: skip
@app_and("[ID...]", least=0)
@choice_options("task", "queue")
@_all_option
@click.option(
    "--limit", type=click.IntRange(1), cls=SectionedOption, section="Choice", metavar="N", default_text="all",
    help="Of those that are chosen only so many, the newest.",
)  # fmt: skip
@yes_option
@json_option
@verbose_option
def retry(
    app: str, words: tuple[str, ...], *, task: str, queue: str, everything: bool, limit: int | None, yes: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Enqueue dead tasks again.

    Those named (- reads ids from stdin), or all that the options choose. The same call under the same ID, from its
    first attempt on, at once. Exit code 12: one of them cannot be; the others are enqueued.
    """
    choice = Choice(task, queue)
    chosen = bool(choice) or everything
    refuse_both(words, chosen=chosen, options="--task, --queue or --all")
    with opened_broker(app) as broker:
        ids = ids_from(words)
        if chosen:
            ids = [each.found.id for each in islice(ended(broker, TaskState.DEAD, choice), limit)]
            if len(ids) > 1:
                confirm(f"Retry {len(ids):,} dead tasks?", yes=yes)
        return report(each_of(ids, retrying(broker)), "retried", as_json=as_json)


@dead.command(
    "purge", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(("poolrt dead purge proj.tasks:app --older-than 2d --yes", "what nobody has looked at for two days"),),
)  # fmt: skip
@app_and()
@choice_options("task", "queue")
@_all_option
@click.option(
    "--older-than", cls=SectionedOption, section="Choice", metavar="DURATION", default=None,
    help="Only those that ended so long ago.",
)  # fmt: skip
@yes_option
@json_option
@verbose_option
def purge(
    app: str, *, task: str, queue: str, everything: bool, older_than: str | None, yes: bool, as_json: bool
) -> int:
    """Delete dead tasks, with all that is known of them."""
    choice = Choice(task, queue)
    if not (choice or everything or older_than):
        raise click.UsageError("choose with --older-than, --task or --queue, or write --all")
    age = 0.0 if older_than is None else parse_duration(older_than)
    before = time.time() - age
    with opened_broker(app) as broker:
        ids = [each.found.id for each in ended(broker, TaskState.DEAD, choice) if each.since <= before]
        if ids:
            older = f", dead for {format_duration(age)}" if age else ""
            confirm(f"Delete what is known of {len(ids):,} tasks{older}?", yes=yes)
        deleted = sum(map(broker.forget, ids))
    click.echo(json.dumps({"schema": SCHEMA, "deleted": deleted}) if as_json else f"{deleted:,} deleted")
    return ExitCode.OK


def _print_list(found: list[Task]) -> None:
    """A line each, however wide the terminal: the ids are there to be copied."""
    from rich.text import Text

    from poolrt.cli.pool_view import cell, make_console

    if not found:
        click.echo("nothing is dead")
        return
    console = make_console()
    for each in found:
        when = f"{datetime.fromtimestamp(each.since):%Y-%m-%d %H:%M:%S}"  # noqa: DTZ006  local, as logs are
        error = each.record.error if each.record else None
        cause = f"{error.type}: {error.text}" if error is not None else each.unreadable
        parts = (cell(when, "dim"), cell(each.found.id), cell(each.name or "unknown", "cyan"), cell(cause))
        console.print(Text("  ").join(parts), soft_wrap=True)
