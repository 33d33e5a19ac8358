"""``poolrt serve``: this process becomes the supervisor.

So nothing heavy is imported here: click stays in the supervisor's memory, rich and the brokers never enter it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import click

from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.cli.setting_flags import setting_options, unknown_variables
from poolrt.settings import Settings, settings_from, table

log = logging.getLogger("poolrt.cli.serve")


class ServeCommand(SectionedCommand):
    """``serve`` with its examples."""

    examples = (
        ("poolrt serve proj.tasks:app", "a child for each processor"),
        ("poolrt serve -A proj.tasks -c 4 --max-tasks-per-child 1000", "Celery's flags; attribute 'app' by default"),
        ("POOLRT_GRACEFUL_TIMEOUT=50s poolrt serve proj.tasks:app", "a setting from the environment"),
        ("poolrt serve proj.tasks:app --log-format json", "one JSON object a line, for a log collector"),
    )


@click.command(cls=ServeCommand, context_settings=CONTEXT)
@click.argument("app", required=False, metavar="[APP]")
@click.option(
    "-A",
    "--app",
    "app_flag",
    cls=SectionedOption,
    section="App",
    metavar="MODULE:ATTRIBUTE",
    envvar="POOLRT_APP",
    help="The app, as Celery takes it; the same as APP.",
)
@setting_options
@verbose_option
def serve(app: str | None, app_flag: str | None, **given: Any) -> int:
    """Run the tasks of APP in a pool of children, until TERM or INT.

    APP is module:attribute, for example proj.tasks:app; the current folder is on its sys.path. A flag wins over
    its environment variable, and that over the default. Durations are written 60s or 1h30m, sizes 512MiB.
    """
    target = chosen_app(app, app_flag)
    settings = settings_from(given)

    from poolrt.app.location import parse_app_argument
    from poolrt.logs import configure
    from poolrt.service import complete
    from poolrt.service import serve as run_supervisor

    location = parse_app_argument(target)
    settings = complete(settings, str(location))
    configure(settings.log_level, settings.log_format)
    for line in unknown_variables():
        log.warning("%s", line)
    for line in banner(str(location), settings):
        log.info("%s", line)
    return run_supervisor(location, settings)


def chosen_app(argument: str | None, flag: str | None) -> str:
    """The app to run: the argument, else -A, else POOLRT_APP.

    Raises:
        click.UsageError: none is named, or two different ones are.
    """
    context = click.get_current_context(silent=True)
    on_line = context is not None and context.get_parameter_source("app_flag") is click.core.ParameterSource.COMMANDLINE
    if argument and flag and on_line and argument != flag:
        raise click.UsageError(f"two apps are named: {argument} and -A {flag} (name one)", context)
    chosen = argument or flag
    if not chosen:
        raise click.UsageError("no app is named (write 'poolrt serve proj.tasks:app', or set POOLRT_APP)", context)
    return chosen


def banner(app: str, settings: Settings) -> Iterator[str]:
    """What is about to run, in two lines; where the messages are is told by the event ``node-started``."""
    from poolrt.version import VERSION

    yield f"poolrt {VERSION}: node {settings.node_name} runs {app} with {children(settings)}"
    limits = [
        f"{setting.flag.removeprefix('--')} {setting.format(value)}"
        for setting in table()
        if setting.row.group in {"Hygiene", "Limits", "Shutdown"} and (value := getattr(settings, setting.name))
        if setting.name != "max_tasks_jitter" or settings.max_tasks_per_child
        if not setting.row.choices or value != setting.default
    ]
    yield f"limits: {', '.join(limits)}"


def children(settings: Settings) -> str:
    """``1 child``, ``4 children``."""
    return "1 child" if settings.concurrency == 1 else f"{settings.concurrency} children"
