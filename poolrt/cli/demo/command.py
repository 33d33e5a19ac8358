"""``poolrt demo``: the command. What it runs, shows and counts loads when it is called."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from poolrt.cli.demo import BROKER_VARIABLE
from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.errors import ExitCode, PoolrtError

if TYPE_CHECKING:
    from poolrt.cli.demo.run import Screen


READER_LEFT: Final = 141
"""128 + SIGPIPE, as shells say of other programs whose reader has left."""
ENDED_BY: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A closed terminal sends HUP twice: from the kernel, and from the shell."""


class DemoCommand(SectionedCommand):
    """``demo`` with its examples."""

    examples = (
        ("poolrt demo", "watch it for a few seconds"),
        ("poolrt demo --json | python3 -m json.tool", "the account, for a script"),
    )


@click.command(cls=DemoCommand, context_settings=CONTEXT)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, 64),
    metavar="N",
    cls=SectionedOption,
    section="Pool",
    default_text="as many as processors, 2 to 4",
    help="How many children pull tasks.",
)
@click.option("--json", "as_json", is_flag=True, cls=SectionedOption, section="Output", help="Print one JSON object.")
@click.option("--keep", is_flag=True, cls=SectionedOption, section="Output", help="Keep the temp folder, and name it.")
@verbose_option
def demo(concurrency: int | None, *, as_json: bool, keep: bool) -> int:
    """Parse Python's standard library as tasks, and account for it.

    Among them run offenders: tasks that leak memory and sockets, hang, allocate without end, crash, swallow what is
    raised in them, or leave a process behind. Needs no app and no broker: it uses a SQLite file in a temp folder.

    Exit code 0 only when every accepted task ended as it was meant to, each offender was contained and named, and no
    process is left over; 9 otherwise. Ends within a minute; at once, with 141, when nobody reads its output any more.
    """
    for number in ENDED_BY:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt_once)
    with demo_folder(keep=keep) as folder:
        from poolrt.cli.demo.run import ReaderLeft, run

        os.environ[BROKER_VARIABLE] = f"sqlite:///{folder}/demo.db"
        try:
            account = run(concurrency or usual_concurrency(), make_screen(as_json=as_json), folder / "pool.log")
        except KeyboardInterrupt as interrupt:
            click.echo("; ".join(["poolrt demo: interrupted", *getattr(interrupt, "__notes__", ())]), err=True)
            raise
        except ReaderLeft:
            return READER_LEFT
        except PoolrtError:
            show_log(folder / "pool.log")
            raise
        from poolrt.cli.demo.account_view import account_view
        from poolrt.cli.demo.screens import is_read
        from poolrt.cli.pool_view import make_console

        # The exit code tells whether it balances, whether anybody still reads it or not.
        if as_json:
            text = json.dumps(account.as_json() | ({"folder": str(folder)} if keep else {}))
            is_read(lambda: click.echo(text))
        elif sys.stdout is not None:
            console = make_console()
            is_read(lambda: console.print(account_view(account, console.width)))
        if not account.problems():
            return ExitCode.OK
        show_log(folder / "pool.log")
        return ExitCode.UNBALANCED


def interrupt_once(number: int, frame: object) -> NoReturn:
    """A first signal ends the run as ^C does; a second one must not end the clean-up that the first one began."""
    for each in ENDED_BY:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def show_log(log: Path) -> None:
    """Print the end of the pool's log on stderr: the folder is about to go."""
    if log.exists():
        click.echo("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]), err=True, nl=False)


@contextmanager
def demo_folder(*, keep: bool) -> Iterator[Path]:
    """A temp folder that is removed afterwards, unless it is to be kept: then it is named on stderr."""
    folder = Path(tempfile.mkdtemp(prefix="poolrt-demo-"))
    try:
        yield folder
    finally:
        if keep:
            click.echo(f"kept: {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def usual_concurrency() -> int:
    """Processors this process may use, but at least 2 and at most 4: more would end before a child is recycled."""
    return min(max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2, 2), 4)


def make_screen(*, as_json: bool) -> Screen:
    """Where the run is shown: live on a terminal, lines elsewhere, nowhere with ``--json`` and without a stdout."""
    from poolrt.cli.demo.screens import LiveScreen, PlainScreen, SilentScreen
    from poolrt.cli.pool_view import make_console

    if as_json or sys.stdout is None:  # started with `>&-`
        return SilentScreen()
    console = make_console()
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)
