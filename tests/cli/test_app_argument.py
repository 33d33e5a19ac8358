"""APP: first on the line, by -A or by POOLRT_APP; and where it ends and the command's own words begin."""

from __future__ import annotations

import click
import pytest

from poolrt.cli.opened_broker import app_and
from poolrt.errors import ExitCode

URL = "sqlite:///a.db"


def called(words, env=None, *, usage="ID...", least=1, most=None):
    """What a command gets: ``(app, words)``."""
    got = {}

    @click.command()
    @app_and(usage, least=least, most=most)
    def command(app, words=()):
        got["it"] = (app, words)

    command.main(words, standalone_mode=False, obj=None)
    return got["it"]


@pytest.mark.parametrize(
    ("words", "env", "got"),
    [
        (["shop:app", "1"], None, ("shop:app", ("1",))),
        (["shop", "1", "2"], None, ("shop", ("1", "2"))),
        ([URL, "1"], None, (URL, ("1",))),
        (["-A", "shop:app", "1", "2"], None, ("shop:app", ("1", "2"))),
        (["1", "--app", "shop:app"], None, ("shop:app", ("1",))),
        (["1", "2"], "shop:app", ("shop:app", ("1", "2"))),
        (["other:app", "1"], "shop:app", ("other:app", ("1",))),
        (["other.tasks:make()", "1"], "shop:app", ("other.tasks:make()", ("1",))),
        ([URL, "1"], "shop:app", (URL, ("1",))),
        (["order:seventeen"], "shop:app", ("shop:app", ("order:seventeen",))),
        (["order:17", "1"], "shop:app", ("shop:app", ("order:17", "1"))),
        (["-A", "shop:app", "other:app", "1"], "x:y", ("shop:app", ("other:app", "1"))),
    ],
)
def test_app_and_ids(monkeypatch, words, env, got):
    """The first word is APP, unless -A or POOLRT_APP names it and it need not be one."""
    if env:
        monkeypatch.setenv("POOLRT_APP", env)
    assert called(words) == got


@pytest.mark.parametrize(
    ("words", "env", "got"),
    [(["other"], "shop:app", ("other", ())), ([], "shop:app", ("shop:app", ())), ([URL], None, (URL, ()))],
)
def test_app_alone(monkeypatch, words, env, got):
    """A command without words of its own takes any first word for APP."""
    if env:
        monkeypatch.setenv("POOLRT_APP", env)
    assert called(words, usage="") == got


@pytest.mark.parametrize(("words", "env"), [(["other", "1"], "shop:app"), (["other", "1"], None)])
def test_one_word_more_is_the_app(monkeypatch, words, env):
    """Where a command takes one word, the first of two is APP whatever it looks like."""
    if env:
        monkeypatch.setenv("POOLRT_APP", env)
    assert called(words, most=1) == ("other", ("1",))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("task", "show"), "no app is named"),
        (("task", "show", "shop:app"), "name the app first, then ID"),
        (("task", "show", "redis://:s3cret@host/0"), "name the app first, then ID"),
        (("task", "show", "-A", "shop:app", "1", "2"), "unexpected argument '2'"),
        (("queue", "list", "shop:app", "mail"), "unexpected argument 'mail'"),
        (("queue", "list", "not an app"), "is not module:attribute"),
        (("queue", "list", "nosuch://x:s3cret@y"), "no broker for nosuch://…"),
    ],
)
def test_mistakes_are_exit_2_and_one_line(poolrt, arguments, why):
    """Each says what is missing or too much, and no password."""
    said = poolrt(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert why in said.err
    assert "s3cret" not in said.err
