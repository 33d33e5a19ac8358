"""The broker that a command reads: of the app that is named, or of a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from poolrt.cli.options import SectionedOption
from poolrt.errors import AppNotFound, PoolrtError

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.brokers.base import Broker

F = TypeVar("F", bound=Callable[..., object])


def broker_option(function: F) -> F:
    """Add ``--broker URL``."""
    return click.option(
        "--broker", cls=SectionedOption, section="Broker", metavar="URL",
        help="The broker, in place of the app's: nothing of the app is imported.",
    )(function)  # fmt: skip


@contextmanager
def opened_broker(app: str | None, url: str | None) -> Iterator[Broker]:
    """The broker of ``url``, else of the app, which is imported; closed at the end.

    Raises:
        click.UsageError: neither is named.
        AppNotFound: the app cannot be imported.
    """
    if url:
        from poolrt.brokers.urls import broker_from_url

        broker = broker_from_url(url)
    elif app:
        broker = import_app(app).broker
    else:
        raise click.UsageError("no app is named (write its module:attribute, or --broker URL)")
    try:
        yield broker
    finally:
        broker.close()


def import_app(app: str) -> App:
    """The app in ``module:attribute``; raises AppNotFound for whatever its import raises."""
    from poolrt.app.location import load, parse_app_argument

    location = parse_app_argument(app)
    try:
        return load(location)
    except PoolrtError:
        raise
    except Exception as error:  # the user's import can raise anything
        raise AppNotFound(f"cannot import {location}: {type(error).__name__}: {error}") from error
