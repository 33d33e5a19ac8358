"""Writes docs/reference/ from the code: ``python -m poolrt.cli.reference [FOLDER]``.

    click commands ─▶ cli.md      settings.table() ─▶ settings.md
    ExitCode ─▶ exit-codes.md     EventKind ─▶ events.md     LeakKind, Action ─▶ leaks.md

A test compares the committed pages with these, so none of them can go stale.
"""

from __future__ import annotations

import ast
import enum
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import click

from poolrt import errors, events
from poolrt.cli.main import COMMANDS, INTERRUPTED, cli
from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption
from poolrt.cli.setting_flags import default_text
from poolrt.hygiene import findings
from poolrt.settings import Setting, table

FOLDER: Final = Path(__file__).parents[2] / "docs" / "reference"
GENERATED: Final = "<!-- Written by python -m poolrt.cli.reference; change the code, not this page. -->"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "cli.md": _page("Command line", cli_page()),
        "settings.md": _page("Settings", settings_page()),
        "exit-codes.md": _page("Exit codes", exit_codes_page()),
        "events.md": _page("Events", events_page()),
        "leaks.md": _page("Leaks", leaks_page()),
    }


def _page(heading: str, lines: Iterable[str]) -> str:
    return "\n".join([f"# {heading}", "", GENERATED, "", *lines]).rstrip() + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
    yield ""


# ---- the command line


def cli_page() -> Iterator[str]:
    """Each command: usage, what it does, its options by section, examples."""
    yield "`poolrt` and `python -m poolrt` are the same. Every command takes `-h` and `-v`; an error is one line on"
    yield "stderr and an [exit code](exit-codes.md). `poolrt --version` names the version."
    yield ""
    context = click.Context(cli, info_name="poolrt", **CONTEXT)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is not None:
            yield from _command(name, command, context, "##")


def _command(name: str, command: click.Command, parent: click.Context, heading: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent, **CONTEXT)
    path, usage = context.command_path, " ".join(command.collect_usage_pieces(context))
    yield from (f"{heading} {path}", "", "```", f"{path} {usage}", "```", "")
    yield from (*inspect.cleandoc(command.help or "").splitlines(), "")
    options = [param for param in command.get_params(context) if isinstance(param, SectionedOption)]
    if options:
        yield from _table(
            ("section", "flag", "environment", "default", "what it does"),
            ((option.section, *_option(option)) for option in options),
        )
    if isinstance(command, SectionedCommand):
        yield "```sh"
        for line, what in command.examples:
            yield from (f"# {what}", line)
        yield from ("```", "")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from _command(inner.name or "", inner, context, f"{heading}#")


def _option(option: SectionedOption) -> tuple[str, str, str, str]:
    environment = f"`{option.envvar}`" if option.envvar else ""
    return f"`{option.flags}`", environment, option.default_text, option.help or ""


# ---- the settings table


def settings_page() -> Iterator[str]:
    """The settings table, a section a group."""
    yield "One table in `poolrt/settings.py` makes the flags of `poolrt serve`, their environment variables, the"
    yield "keyword arguments of `Supervisor(...)` and this page. A flag wins over its environment variable, and that"
    yield "over the default. Durations are written `60s`, `250ms` or `1h30m` (a bare number is seconds); sizes `512MiB`"
    yield "or `2GB` (a bare number is refused)."
    yield ""
    for group, settings in groupby(table(), key=lambda setting: setting.row.group):
        yield from (f"## {group}", "")
        yield from _table(
            ("setting", "flag", "environment", "default", "what it does"), (_setting(setting) for setting in settings)
        )


def _setting(setting: Setting) -> tuple[str, ...]:
    flags = ", ".join(f"`{flag}`" for flag in (*setting.row.flags, setting.flag))
    default = f"`{default_text(setting)}`" if default_text(setting) else ""
    choices = f" One of {', '.join(f'`{choice}`' for choice in setting.row.choices)}." if setting.row.choices else ""
    return f"`{setting.name}`", flags, f"`{setting.env}`", default, setting.row.help + choices


# ---- enums with a sentence for each member


def exit_codes_page() -> Iterator[str]:
    """Each exit code with its name, its sentence and the errors that end with it."""
    raised: dict[int, list[str]] = {}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.PoolrtError) and error is not errors.PoolrtError:
            raised.setdefault(error.exit_code, []).append(f"`{error.__name__}`")
    sentences = members(errors.ExitCode)
    yield from _table(
        ("code", "name", "meaning", "errors"),
        (
            *(
                (str(code.value), code.name, sentences[code.name], ", ".join(raised.get(code, ())))
                for code in errors.ExitCode
            ),
            (str(INTERRUPTED), "", "Interrupted by ^C, and cleaned up (128 + SIGINT).", ""),
        ),
    )


def events_page() -> Iterator[str]:
    """Each kind of event with its sentence, and the fields of all."""
    yield "An event is a log line, a line of the control socket's stream (`Supervisor.events()`), and a row of"
    yield "`poolrt status`. Its fields: `kind`, `at` (seconds since the epoch), and where they apply `node`, `slot`,"
    yield "`generation`, `pid`, `task`, `task_id`, `cause`, `numbers`."
    yield ""
    sentences = members(events.EventKind)
    yield from _table(("kind", "meaning"), ((f"`{kind.value}`", sentences[kind.name]) for kind in events.EventKind))


def leaks_page() -> Iterator[str]:
    """Each kind of leak with its sentence and default action, and each action with its own."""
    yield "What is looked for in a child, and what is done about it unless `--leak-policy`, or `leaks=` of the task,"
    yield "says otherwise: see [find leaks](../how-to/find-leaks.md)."
    yield ""
    sentences = members(findings.LeakKind)
    yield from _table(
        ("kind", "what a task left", "default"),
        ((f"`{kind}`", sentences[kind.name], f"`{findings.DEFAULTS[kind]}`") for kind in findings.LeakKind),
    )
    sentences = members(findings.Action)
    yield "Each action does what those before it do, too."
    yield ""
    yield from _table(
        ("action", "what is done"), ((f"`{action}`", sentences[action.name]) for action in findings.Action)
    )


def members(kind: type[enum.Enum]) -> dict[str, str]:
    """The sentence below each member of an enum, read from its source: Python keeps no docstring there."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[statement.targets[0].id] = " ".join(text.value.split())
    return found


def write(folder: Path = FOLDER) -> None:
    """Write every page into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
        print(folder / name)


if __name__ == "__main__":
    write(*(Path(argument) for argument in sys.argv[1:2]))
