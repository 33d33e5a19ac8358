"""``poolrt status``: one look at a running node, over its control socket."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.errors import ExitCode, SupervisorNotRunning

SCHEMA: Final = 1
"""Version of the ``--json`` object; raised when a key changes its meaning or goes."""


class StatusCommand(SectionedCommand):
    """``status`` with its examples."""

    examples = (
        ("poolrt status", "the only node that runs on this machine"),
        ("poolrt status web-1 --json", "one node, for a script"),
    )


@click.command(cls=StatusCommand, context_settings=CONTEXT)
@click.argument("node", required=False, metavar="[NODE]")
@click.option("--json", "as_json", is_flag=True, cls=SectionedOption, section="Output", help="Print one JSON object.")
@verbose_option
def status(node: str | None, *, as_json: bool) -> int:
    """Show a running node: queue, children, last events.

    NODE may be left out when one node runs on this machine. Exit code 8: no such node runs.
    """
    answer = ask(node)
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **answer}))
        return ExitCode.OK

    from poolrt.cli.pool_view import make_console, status_view  # rich: 38 ms

    console = make_console()
    console.print(status_view(answer, console.width))
    return ExitCode.OK


def ask(node: str | None) -> dict[str, Any]:
    """The status of a running node; raises SupervisorNotRunning."""
    from poolrt.control import ControlClient, nodes

    try:
        client = ControlClient.connect(node)
    except SupervisorNotRunning as error:
        if nodes():
            raise  # it names them
        raise SupervisorNotRunning(f"{error} ('poolrt serve APP' starts one)") from None
    try:
        answer: dict[str, Any] = client.call("status")
        return answer
    finally:
        client.close()
