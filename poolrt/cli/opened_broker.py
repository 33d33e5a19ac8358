"""The broker that a command acts on: of the app that is named, or of a URL; and how APP is told from what follows it.

``poolrt task show APP ID``, ``poolrt task show -A APP ID`` as Celery has it, and ``POOLRT_APP=APP poolrt task show ID``
are the same; APP is module:attribute, which is imported to know its broker, or the broker's URL.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poolrt.cli.options import SectionedOption
from poolrt.errors import AppNotFound, ConfigurationError, PoolrtError

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.brokers.base import Broker

F = TypeVar("F", bound=Callable[..., object])


def app_and(words: str = "", *, least: int = 1, most: int | None = None) -> Callable[[F], F]:
    """Give a command ``app`` and ``words``: what is written behind APP, ``least`` to ``most`` words.

    Args:
        words: how the usage names them, for example ``"ID..."``; empty for a command that takes APP alone.
        least: so many are needed.
        most: so many are taken; None for any number.
    """
    if not words:
        least, most = 0, 0

    def split(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
        if ctx.resilient_parsing:
            return value
        on_line = ctx.get_parameter_source("app") is click.core.ParameterSource.COMMANDLINE
        ctx.params["app"], rest = _split(value, ctx.params.get("app"), on_line=on_line, least=least, most=most)
        if len(rest) < least:
            raise click.UsageError(f"name the app first, then {words}", ctx)
        if most is not None and len(rest) > most:
            raise click.UsageError(f"unexpected argument {rest[most]!r}", ctx)
        return rest

    def decorate(function: F) -> F:
        metavar = f"APP {words}".strip()
        argument = click.argument("words", nargs=-1, metavar=metavar, callback=split, expose_value=bool(words))
        option = click.option(
            "-A", "--app", is_eager=True, cls=SectionedOption, section="App", metavar="APP", envvar="POOLRT_APP",
            help="The app, as Celery takes it; the same as APP.",
        )  # fmt: skip
        return argument(option(function))

    return decorate


def _split(
    words: tuple[str, ...], named: str | None, *, on_line: bool, least: int, most: int | None
) -> tuple[str, tuple[str, ...]]:
    """APP and the words behind it. Where POOLRT_APP names it, the first word is APP if it must be, or looks so."""
    if named and on_line:
        return named, words
    too_many = most is not None and len(words) > most
    if words and (not named or too_many or (len(words) > least and _looks_like_app(words[0]))):
        return words[0], words[1:]
    if not named:
        raise click.UsageError("no app is named (write its module:attribute or its broker's URL, or set POOLRT_APP)")
    return named, words


def _looks_like_app(word: str) -> bool:
    module, colon, attribute = word.partition(":")
    names = [*module.split("."), *attribute.removesuffix("()").split(".")]
    return "://" in word or (bool(colon) and all(name.isidentifier() for name in names))


@contextmanager
def opened_broker(app: str) -> Iterator[Broker]:
    """The broker of this URL, or of the app, which is imported; closed at the end.

    Raises:
        ConfigurationError: it is neither.
        AppNotFound: the app cannot be imported.
    """
    if "://" in app:
        from poolrt.brokers.urls import broker_from_url

        broker = broker_from_url(app)
    else:
        broker = import_app(app).broker
    try:
        yield broker
    finally:
        broker.close()


def import_app(app: str) -> App:
    """The app in ``module:attribute``.

    Raises:
        ConfigurationError: it is a broker's URL, or no name of an app.
        AppNotFound: whatever its import raised.
    """
    from poolrt.app.location import load, parse_app_argument

    if "://" in app:
        raise ConfigurationError("this command needs the app itself, not its broker: write for example proj.tasks:app")
    location = parse_app_argument(app)
    try:
        return load(location)
    except PoolrtError:
        raise
    except Exception as error:  # the user's import can raise anything
        raise AppNotFound(f"cannot import {location}: {type(error).__name__}: {error}") from error


def ids_from(words: Sequence[str]) -> list[str]:
    """The ids that are named, each once; ``-`` stands for those on stdin, one a line, as ``--ids`` prints them."""
    ids: dict[str, Any] = {}
    for word in words:
        ids.update(dict.fromkeys([word] if word != "-" else (line.strip() for line in sys.stdin)))
    ids.pop("", None)
    return list(ids)
