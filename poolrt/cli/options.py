"""What every command shares: ``-v``, ``-h``, and help in named sections with examples below."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

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

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """``-c, --concurrency N`` and its sentence with ``[POOLRT_CONCURRENCY; default 0]``."""
        flags = ", ".join(sorted(self.opts, key=len)) + (f" {self.metavar}" if self.metavar else "")
        notes = [str(self.envvar)] if self.envvar else []
        if self.default_text:
            notes.append(f"default {self.default_text}")
        return flags, f"{self.help}" + (f"  [{'; '.join(notes)}]" if notes else "")


class SectionedCommand(click.Command):
    """A command whose help groups its options in sections and ends with examples."""

    examples: tuple[tuple[str, str], ...] = ()
    """Command lines and what each does."""

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
