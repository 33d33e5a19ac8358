"""``poolrt leaks``: what tasks left behind; of all nodes, from the broker, or of this machine's, from themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from poolrt.cli.opened_broker import opened_broker
from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, Verbosity, json_option, verbose_option
from poolrt.errors import ControlError, ExitCode, SupervisorNotRunning

if TYPE_CHECKING:
    from poolrt.hygiene.findings import LeakRow

SCHEMA: Final = 1
"""Version of the ``--json`` object; raised when a key changes its meaning or goes."""


class LeaksCommand(SectionedCommand):
    """``leaks`` with its examples."""

    examples = (
        ("poolrt leaks", "of the nodes that run on this machine, since each started"),
        ("poolrt leaks -v", "the same, each with its reason and with where it was opened"),
        ("poolrt leaks proj.tasks:app --json", "of all nodes, for a script"),
        ("poolrt leaks sqlite:///proj.db --forget", "begin to count anew, after a fix"),
    )


@click.command(cls=LeaksCommand, context_settings=CONTEXT)
@click.argument("app", required=False, metavar="[APP]")
@json_option
@click.option(
    "--forget", is_flag=True, cls=SectionedOption, section="Output", help="Drop what is known, and say how much it was."
)
@verbose_option
@click.pass_context
def leaks(ctx: click.Context, app: str | None, *, as_json: bool, forget: bool) -> int:
    """Show what tasks left behind, and how often.

    Connections, files, threads, processes, memory and more. With APP, which is module:attribute or its broker's URL, it
    is read from the broker: the sum over all nodes and their children, also those that have ended. Without it the
    nodes that run on this machine are asked, and their answers summed. Exit code 8: none runs.
    """
    verbosity = ctx.find_object(Verbosity)
    if app:
        with opened_broker(app) as opened:
            if forget:
                return _forgotten(opened.forget_leaks(), as_json=as_json)
            rows = opened.leaks()
    else:
        told = list(_nodes_say(forget=forget))
        if forget:
            return _forgotten(sum(told), as_json=as_json)
        rows = _summed(told)
    _print(rows, as_json=as_json, verbose=verbosity is not None and verbosity.traceback)
    return ExitCode.OK


def _nodes_say(*, forget: bool) -> Iterator[Any]:
    """What each node of this machine answers; one that knows no leaks, or ends meanwhile, is named and passed over.

    Raises:
        SupervisorNotRunning: there is none.
    """
    from poolrt.control import ControlClient, nodes

    running = nodes()
    if not running:
        raise SupervisorNotRunning("no node runs on this machine ('poolrt leaks APP' asks the app's broker)")
    for node in running:
        try:
            with ControlClient.connect(node) as client:
                yield client.call("leaks", forget=forget)
        except (ControlError, SupervisorNotRunning) as error:
            click.echo(f"poolrt: node {node}: {error}", err=True)


def _summed(told: list[list[dict[str, Any]]]) -> list[LeakRow]:
    from poolrt.hygiene.findings import LeakRow, LeakTable

    return LeakTable(LeakRow.from_object(row) for rows in told for row in rows).rows()


def _forgotten(count: int, *, as_json: bool) -> int:
    click.echo(json.dumps({"schema": SCHEMA, "forgotten": count}) if as_json else f"{count} forgotten")
    return ExitCode.OK


def _print(rows: list[LeakRow], *, as_json: bool, verbose: bool) -> None:
    objects = [row.as_object() for row in rows]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "leaks": objects}))
        return
    if not rows:
        click.echo("no task was seen to leave anything behind")
        return

    from poolrt.cli.pool_view import leaks_in_full, leaks_table, make_console  # rich: 38 ms

    console = make_console()
    if verbose:
        console.print(leaks_in_full(objects, time.time()), soft_wrap=True)
    else:
        console.print(leaks_table(objects, time.time(), console.width))
