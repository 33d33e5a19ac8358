"""``poolrt top``: the command. What draws loads when there is a terminal and a node."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.cli.status import ask
from poolrt.errors import ConfigurationError
from poolrt.units import format_duration, parse_duration

FASTEST: Final = 0.1
SLOWEST: Final = 60.0
"""Seconds between two looks, at least and at most."""


class TopCommand(SectionedCommand):
    """``top`` with its examples."""

    examples = (
        ("poolrt top", "the only node that runs on this machine"),
        ("poolrt top web-1 --interval 2s", "one node, over a slow line"),
    )


def _interval(ctx: click.Context, param: click.Parameter, value: Any) -> float:
    try:
        seconds = parse_duration(value)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    if not FASTEST <= seconds <= SLOWEST:
        bounds = f"{format_duration(FASTEST)} to {format_duration(SLOWEST)}"
        raise click.BadParameter(f"{value!r} is not between {bounds}", ctx, param)
    return seconds


@click.command(cls=TopCommand, context_settings=CONTEXT)
@click.argument("node", required=False, metavar="[NODE]")
@click.option(
    "--interval",
    default="500ms",
    metavar="DURATION",
    callback=_interval,
    cls=SectionedOption,
    section="Output",
    default_text="500ms",
    help="Time between two looks at the node.",
)
@verbose_option
def top(node: str | None, interval: float) -> int:
    """Watch a running node, live, and act on it.

    NODE may be left out when one node runs on this machine. Keys: q quits, ? explains the others and the columns.
    A child can be recycled and the pool scaled from here. Exit code 8: no such node runs, or it went away and did not
    come back within 5 minutes.
    """
    from poolrt.posix.terminal import Terminal, is_terminal

    fds = [stream.fileno() for stream in (sys.__stdin__, sys.__stdout__) if stream is not None]
    if len(fds) != 2 or not is_terminal(*fds):
        raise ConfigurationError("top needs a terminal; use 'poolrt status'")
    first = ask(node)

    from poolrt.cli.pool_view import make_console
    from poolrt.top.loop import Top, signals

    console = make_console()
    if console.is_dumb_terminal:
        raise ConfigurationError("top needs a terminal that moves its cursor, and TERM says dumb; use 'poolrt status'")
    with signals() as wakeup, Terminal(*fds) as terminal:
        return Top(first, interval, terminal, console).run(wakeup)
