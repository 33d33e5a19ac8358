"""The flags of ``poolrt serve``, made from the settings table, so that neither can say what the other does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

from poolrt.cli.options import SectionedOption
from poolrt.errors import ConfigurationError
from poolrt.settings import Kind, Setting, settings_from, table

F = TypeVar("F", bound=Callable[..., Any])

NOT_SETTINGS: Final = frozenset(
    {
        "POOLRT_APP",
        "POOLRT_DEBUG",
        "POOLRT_DEMO_BROKER",
        "POOLRT_INCARNATION",
        "POOLRT_RUNTIME_DIR",
        "POOLRT_STRICT",
    }
)
"""Names that begin as a setting's does, and mean something else."""
COMPUTED: Final = {
    "node_name": "APP@HOST",
    "queues": "all",
    "exclude_queues": "none",
    "leak_policy": "each kind's own",
    "leak_allow": "nothing",
}
"""What an empty text means: a default that ``service.complete`` makes, or in words."""


def default_text(setting: Setting) -> str:
    """The default as a user would write it, or how it is made."""
    return setting.default_text or COMPUTED.get(setting.name, "")


def _check(setting: Setting) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback that refuses what the table refuses, in its words, and hands the text on as it is."""

    def check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is not None:
            name = setting.name
            try:
                settings_from({name: value})
            except ConfigurationError as error:
                text = str(error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
                raise click.BadParameter(text, ctx, param) from None
        return value

    return check


def setting_option(setting: Setting) -> Callable[[F], F]:
    """The click option of one setting."""
    row = setting.row
    return click.option(
        *row.flags,
        setting.flag,
        setting.name,
        cls=SectionedOption,
        section=row.group,
        type=click.Choice(row.choices) if row.kind is Kind.CHOICE else str,
        callback=None if row.choices else _check(setting),
        metavar=f"[{'|'.join(row.choices)}]" if row.choices else row.metavar,
        envvar=setting.env,
        default=None,
        default_text=default_text(setting),
        help=row.help,
    )


def setting_options(function: F) -> F:
    """Add every setting as a flag; the command gets each by name, None where neither flag nor variable was given."""
    for setting in reversed(table()):  # click puts the option that was added last first
        function = setting_option(setting)(function)
    return function


def unknown_variables(environ: Mapping[str, str] | None = None) -> Iterable[str]:
    """One line for each ``POOLRT_*`` variable that is no setting, with the nearest that is one."""
    known = {setting.env for setting in table()} | NOT_SETTINGS
    for name in sorted(os.environ if environ is None else environ):
        if name.startswith("POOLRT_") and name not in known:
            import difflib

            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "'poolrt serve --help' names them all"
            yield f"the environment variable {name} is no setting ({hint})"
