"""``poolrt serve``: this process becomes the supervisor.

So nothing heavy is imported here: click stays in the supervisor's memory, rich and the brokers never enter it.
"""

from __future__ import annotations

import logging
from typing import Any

import click

from poolrt.cli.options import CONTEXT, SectionedCommand, SectionedOption, verbose_option
from poolrt.cli.setting_flags import setting_options, unknown_variables
from poolrt.events import Event, EventKind
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

    location = parse_app_argument(target)
    configure(settings.log_level, settings.log_format)
    for line in unknown_variables():
        log.warning("%s", line)
    log.info("poolrt serve %s, %s", location, pool_line(settings))
    log.info("%s", limits_line(settings))

    from poolrt.service import serve as run_supervisor

    return run_supervisor(location, settings, on_event=announce)


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


def pool_line(settings: Settings) -> str:
    """How many children, under which name."""
    count = f"{settings.concurrency} children" if settings.concurrency else "a child for each processor"
    return f"{count}, node {settings.node_name}" if settings.node_name else count


def limits_line(settings: Settings) -> str:
    """The limits in force, as a user would write them; what is off is left out."""
    shown = [
        f"{setting.name.replace('_', '-')} {setting.format(getattr(settings, setting.name))}"
        for setting in table()
        if setting.row.group in {"Hygiene", "Limits", "Shutdown"} and getattr(settings, setting.name)
    ]
    return "limits: " + ", ".join(shown)


def announce(event: Event) -> None:
    """Say where the messages are, once the template has imported the app and so knows."""
    if event.kind is EventKind.NODE_STARTED and "broker" in event.numbers:
        log.info("node %s serves; broker %s", event.node, event.numbers["broker"])
