"""What every command shares: ``-v``, ``-h``, and help in named sections with examples below."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from poolrt.errors import ExitCode

CONTEXT: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
"""Settings of every command's context."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(slots=True)
class Verbosity:
    """What ``-v`` sets, on the group or on a command; ``run`` reads it after a failure."""

    traceback: bool = False


def _be_verbose(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: FBT001  click's signature
    verbosity = ctx.find_object(Verbosity)
    if value and verbosity is not None:
        verbosity.traceback = True


def verbose_option(function: F) -> F:
    """Add ``-v/--verbose``."""
    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_be_verbose,
        help="Show the traceback of an error (also POOLRT_DEBUG=1).",
    )(function)


class SectionedOption(click.Option):
    """An option that stands in a section of the help, and shows its environment variable and default there."""

    def __init__(self, *args: Any, section: str, default_text: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self.default_text = default_text

    @property
    def flags(self) -> str:
        """``-c, --concurrency N``; a value that may be left out is written ``--wait[=DURATION]``."""
        gap = "" if (self.metavar or "[").startswith("[=") else " "
        return ", ".join(sorted(self.opts, key=len)) + (f"{gap}{self.metavar}" if self.metavar else "")

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """``-c, --concurrency N`` and its sentence with ``[POOLRT_CONCURRENCY; default 0]``."""
        notes = [str(self.envvar)] if self.envvar else []
        if self.default_text:
            notes.append(f"default {self.default_text}")
        return self.flags, f"{self.help}" + (f"  [{'; '.join(notes)}]" if notes else "")


class SectionedCommand(click.Command):
    """A command whose help groups its options in sections and ends with examples."""

    examples: tuple[tuple[str, str], ...] = ()
    """Command lines and what each does."""

    def __init__(self, *args: Any, examples: tuple[tuple[str, str], ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples or self.examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a group, in the order in which the options were declared; those of all commands last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in sorted(self.get_params(ctx), key=lambda param: not hasattr(param, "section")):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples: what each does, and below it the line to type."""
        if self.examples:
            with formatter.section("Examples"):
                for line, what in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}# {what}\n")
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class SectionedGroup(SectionedCommand, click.Group):
    """A command that has commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, and below them the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def explain_if_alone(ctx: click.Context) -> int:
    """What a group does itself: its help on stderr and exit code 2 if no command of it was named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return ExitCode.USAGE
    return ExitCode.OK


json_option = click.option(
    "--json", "as_json", is_flag=True, cls=SectionedOption, section="Output", help="Print one JSON object."
)
"""Add ``--json``."""
yes_option = click.option("--yes", "-y", is_flag=True, cls=SectionedOption, section="Choice", help="Do not ask.")
"""Add ``--yes``; see ``confirm``."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless ``yes``.

    Raises:
        click.UsageError: nobody is there to be asked.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} (nobody is there to be asked: write --yes)")
    click.confirm(question, abort=True, err=True)
