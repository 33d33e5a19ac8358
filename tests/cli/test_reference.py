"""docs/reference: the committed pages are what the code says today."""

from __future__ import annotations

import pytest

from poolrt.cli import reference
from poolrt.cli.main import COMMANDS
from poolrt.errors import ExitCode
from poolrt.events import EventKind
from poolrt.settings import table


@pytest.mark.parametrize("name", reference.pages())
def test_the_committed_page_is_the_generated_one(name):
    """No page is stale: after a change of the code, ``python -m poolrt.cli.reference`` writes them again."""
    committed = (reference.FOLDER / name).read_text()
    assert committed == reference.pages()[name], "run: python -m poolrt.cli.reference"


def test_nothing_else_lies_among_the_generated_pages():
    """A page that is generated no more is removed."""
    marked = {path.name for path in reference.FOLDER.glob("*.md") if reference.GENERATED in path.read_text()}
    assert marked == set(reference.pages())


@pytest.mark.parametrize("kind", [ExitCode, EventKind])
def test_every_member_has_its_sentence(kind):
    """Each exit code and each kind of event has one sentence, in the enum, and it reaches the page."""
    sentences = reference.members(kind)
    assert set(sentences) == {member.name for member in kind}
    page = reference.pages()["exit-codes.md" if kind is ExitCode else "events.md"]
    assert all(sentence.replace("|", "\\|") in page for sentence in sentences.values())


def test_every_exit_code_is_documented():
    """The page has a row for each code, by number and name."""
    page = reference.pages()["exit-codes.md"]
    assert all(f"| {code.value} | {code.name} |" in page for code in ExitCode)


def test_every_setting_and_command_is_documented():
    """Each setting stands on its page with flag and variable, each command on its own."""
    pages = reference.pages()
    for setting in table():
        assert f"| `{setting.name}` |" in pages["settings.md"]
        assert setting.flag in pages["cli.md"]
        assert setting.env in pages["cli.md"]
    assert all(f"## poolrt {name}\n" in pages["cli.md"] for name in COMMANDS)
