"""``poolrt``: finds the command, runs it, and turns an error into one line and its exit code.

    main() ─▶ run() ─▶ click group ─(loads the module of the command named)─▶ command ─▶ exit code
                ◀─────────── an error: one line on stderr, its class's exit code, a traceback only with -v

This module must stay light: ``poolrt serve`` becomes the supervisor, and what is imported here stays in its memory.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from poolrt.cli.options import CONTEXT, Verbosity, verbose_option
from poolrt.errors import ExitCode, PoolrtError
from poolrt.version import VERSION

COMMANDS: Final = {
    "serve": "poolrt.cli.serve:serve",
    "status": "poolrt.cli.status:status",
    "top": "poolrt.cli.top:top",
    "enqueue": "poolrt.cli.enqueue:enqueue",
    "task": "poolrt.cli.task:task",
    "queue": "poolrt.cli.queue:queue",
    "leaks": "poolrt.cli.leaks:leaks",
    "dead": "poolrt.cli.dead:dead",
    "demo": "poolrt.cli.demo.command:demo",
}
"""Each command and where it lives, in the order of the help."""

KNOWN_ELSEWHERE: Final = {
    "worker": "serve",
    "start": "serve",
    "run": "serve",
    "up": "serve",
    "inspect": "status",
    "info": "status",
    "ps": "status",
    "events": "top",
    "monitor": "top",
    "watch": "top",
    "call": "enqueue",
    "send": "enqueue",
    "result": "task show",
    "revoke": "task cancel",
    "requeue": "dead retry",
    "purge": "queue purge",
    "suspend": "queue pause",
}
"""What other tools call the same thing: celery worker, rq info, docker ps, celery events, celery call, rq requeue."""

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells and their users expect."""


class Commands(click.Group):
    """The group, which imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, its module imported; None when there is none."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command in ``args``; an unknown one is refused with the nearest name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            nearest = _nearest(name)
            hint = f"did you mean 'poolrt {nearest}'?" if nearest else "'poolrt --help' lists them"
            raise click.UsageError(f"no command {name!r} ({hint})", ctx)
        return super().resolve_command(ctx, args)


def _nearest(name: str) -> str | None:
    import difflib

    meant = difflib.get_close_matches(name, [*COMMANDS, *KNOWN_ELSEWHERE], n=1)
    return KNOWN_ELSEWHERE.get(meant[0], meant[0]) if meant else None


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001  click's signature
    if value and not ctx.resilient_parsing:
        click.echo(f"poolrt {VERSION} (Python {sys.version.split()[0]})")
        ctx.exit()


@click.group(cls=Commands, context_settings=CONTEXT, invoke_without_command=True)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@verbose_option
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Run Python background tasks in a pool of children that stays clean for months."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return ExitCode.USAGE
    return ExitCode.OK


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (this process's own by default) and return its exit code."""
    verbosity = Verbosity(os.environ.get("POOLRT_DEBUG", "") not in {"", "0"})
    try:
        code: Any = cli.main(
            args=None if argv is None else list(argv), prog_name="poolrt", standalone_mode=False, obj=verbosity
        )
    except click.exceptions.Abort:  # what click makes of ^C
        return INTERRUPTED
    except click.ClickException as error:
        return _refuse(usage_line(error), ExitCode.USAGE, verbosity)
    except PoolrtError as error:
        return _refuse(" / ".join(str(error).splitlines()) or type(error).__name__, error.exit_code, verbosity)
    except Exception as error:  # noqa: BLE001  the last line of defence: one line, and the way to the traceback
        text = f"unexpected {type(error).__name__}: {' / '.join(str(error).splitlines())}"
        return _refuse(f"{text} (run again with -v for the traceback)", ExitCode.UNEXPECTED, verbosity)
    return int(code) if isinstance(code, int) else ExitCode.OK


def usage_line(error: click.ClickException) -> str:
    """One line for what click refuses: which flag or environment variable, and why."""
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    param = getattr(error, "param", None)
    command = context.command_path if context is not None else "poolrt"
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and param is not None:
        return f"{_source(param, context)}: {' '.join(error.message.split()).rstrip('.')}"
    text = text[:1].lower() + text[1:].rstrip(".")
    return text if text.endswith(("?", ")")) else f"{text} ('{command} --help' lists what there is)"


def _source(param: click.Parameter, context: click.Context | None) -> str:
    """Where a value came from, as the user wrote it: the flag or the environment variable."""
    source = context.get_parameter_source(param.name) if context is not None and param.name else None
    if source is click.core.ParameterSource.ENVIRONMENT and isinstance(param.envvar, str):
        return param.envvar
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.human_readable_name


def _refuse(line: str, code: int, verbosity: Verbosity) -> int:
    if verbosity.traceback and not isinstance(sys.exc_info()[1], click.UsageError):
        import traceback

        traceback.print_exc()
    click.echo(f"poolrt: {line}", err=True)
    return code


def main() -> NoReturn:
    """The console script: run, and exit with the code."""
    sys.exit(run())
