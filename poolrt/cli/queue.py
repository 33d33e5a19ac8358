"""``poolrt queue``: what waits in each queue; pause, resume, purge and move. No node need run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from poolrt.cli.opened_broker import app_and, opened_broker
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
from poolrt.errors import ExitCode

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker, Depth, QueueDepth

SCHEMA: Final = 1
"""Version of the ``--json`` objects; raised when a key changes its meaning or goes."""
_STEP: Final = 10_000
"""Messages that are deleted or moved in one step of the broker."""


@click.group(
    cls=SectionedGroup, context_settings=CONTEXT, invoke_without_command=True,
    examples=(("poolrt queue list proj.tasks:app", "how much waits, and for how long"),),
)  # fmt: skip
@click.pass_context
def queue(ctx: click.Context) -> int:
    """Look at queues, pause, resume, purge and move them."""
    return explain_if_alone(ctx)


@queue.command(
    "list", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt queue list proj.tasks:app", "how much waits, and for how long"),
        ("poolrt queue list sqlite:///proj.db --json", "for a script, without importing the app"),
    ),
)  # fmt: skip
@app_and()
@json_option
@verbose_option
def list_queues(app: str, *, as_json: bool) -> int:
    """List queues that hold messages or are paused.

    APP is module:attribute, or its broker's URL; then nothing is imported. Ages are in seconds in the JSON.
    """
    with opened_broker(app) as broker:
        queues, depth = broker.queues(), broker.depth()
    if as_json:
        told = {"queues": [each._asdict() for each in queues], "totals": depth._asdict()}
        click.echo(json.dumps({"schema": SCHEMA, **told}))
    else:
        _print(queues, depth)
    return ExitCode.OK


def _print(queues: Sequence[QueueDepth], depth: Depth) -> None:
    from poolrt.cli.pool_view import Column, fitted_table, make_console, queue_line, seconds

    columns = (
        Column("QUEUE", lambda row: row["name"], least=12, cut_end=True),
        Column("QUEUED", lambda row: f"{row['queued']:,}", right=True),
        Column("OLDEST", lambda row: seconds(row["oldest"]), right=True),
        Column("", lambda row: "paused" if row["paused"] else ""),
    )
    console = make_console()
    if queues:
        console.print(fitted_table(columns, [each._asdict() for each in queues], console.width))
    console.print(queue_line(depth._asdict(), "all"))


@queue.command(
    "pause", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(("poolrt queue pause proj.tasks:app mail", "no node takes anything of it, until it is resumed"),),
)  # fmt: skip
@app_and("QUEUE...")
@json_option
@verbose_option
def pause(app: str, words: tuple[str, ...], *, as_json: bool) -> int:
    """Let nothing of these queues start until resumed.

    What runs goes on. A pause is kept in the broker: it outlives nodes and restarts.
    """
    with opened_broker(app) as broker:
        return _for_each(words, broker.pause, "paused", as_json=as_json)


@queue.command(
    "resume", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(("poolrt queue resume proj.tasks:app mail", "what waits there is taken again"),),
)  # fmt: skip
@app_and("QUEUE...")
@json_option
@verbose_option
def resume(app: str, words: tuple[str, ...], *, as_json: bool) -> int:
    """End the pause of these queues."""
    with opened_broker(app) as broker:
        return _for_each(words, broker.unpause, "resumed", as_json=as_json)


def _for_each(names: tuple[str, ...], act: Callable[[str], None], done: str, *, as_json: bool) -> int:
    for name in dict.fromkeys(names):
        act(name)
    return _tell({done: list(dict.fromkeys(names))}, f"{', '.join(names)} {done}", as_json=as_json)


def _tell(keys: dict[str, Any], text: str, *, as_json: bool) -> int:
    click.echo(json.dumps({"schema": SCHEMA, **keys}) if as_json else text)
    return ExitCode.OK


@queue.command(
    "purge", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(("poolrt queue purge proj.tasks:app mail --yes", "delete what waits there"),),
)  # fmt: skip
@app_and("QUEUE", most=1)
@yes_option
@json_option
@verbose_option
def purge(app: str, words: tuple[str, ...], *, yes: bool, as_json: bool) -> int:
    """Delete what waits in a queue.

    No record of it is left. Delayed tasks and what runs stay, and so does what is enqueued meanwhile. "poolrt task
    cancel APP --queue QUEUE" leaves records, and ends delayed and running ones too.
    """
    (name,) = words
    with opened_broker(app) as broker:
        waiting = _queued(broker, name)
        if waiting:
            confirm(f"Delete the {waiting:,} messages that wait in {name}?", yes=yes)
        deleted = _repeat(lambda limit: broker.empty(name, limit), waiting)
    return _tell({"queue": name, "deleted": deleted}, f"{deleted:,} deleted", as_json=as_json)


@queue.command(
    "move", cls=SectionedCommand, context_settings=CONTEXT,
    examples=(
        ("poolrt queue move proj.tasks:app mail slow-mail", "all that waits there"),
        ("poolrt queue move proj.tasks:app mail slow-mail --limit 10", "those that are to run first"),
    ),
)  # fmt: skip
@app_and("FROM TO", least=2, most=2)
@click.option(
    "--limit", type=click.IntRange(1), cls=SectionedOption, section="Choice", metavar="N", default_text="all",
    help="Move at most so many, those that are to run first.",
)  # fmt: skip
@json_option
@verbose_option
def move(app: str, words: tuple[str, ...], *, limit: int | None, as_json: bool) -> int:
    """Put what waits in a queue into another one.

    It keeps its age and priority. Delayed tasks and what runs stay, and a retry of what was moved may return to the
    old queue.
    """
    source, target = words
    if source == target:
        raise click.UsageError("FROM and TO are the same queue")
    with opened_broker(app) as broker:
        waiting = _queued(broker, source)
        most = waiting if limit is None else min(limit, waiting)
        moved = _repeat(lambda count: broker.move(source, target, count), most)
    return _tell({"from": source, "to": target, "moved": moved}, f"{moved:,} moved", as_json=as_json)


def _queued(broker: Broker, name: str) -> int:
    return next((each.queued for each in broker.queues() if each.name == name), 0)


def _repeat(act: Callable[[int], int], most: int) -> int:
    """Do ``act`` in steps until it has done ``most``, or finds nothing more; how many."""
    done = 0
    while done < most and (count := act(min(_STEP, most - done))):
        done += count
    return done
