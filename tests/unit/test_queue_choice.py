"""Which queues a node reads: what the settings mean, and what they refuse."""

from __future__ import annotations

import pytest

from poolrt.errors import ConfigurationError
from poolrt.queue_choice import ALL_QUEUES, QueueChoice, parse_queue_choice
from poolrt.settings import Settings


@pytest.mark.parametrize(("text", "names"), [("a", ("a",)), (" a , b,,c ", ("a", "b", "c")), (" , ", ()), ("", ())])
def test_names_are_separated_by_commas(text: str, names: tuple[str, ...]) -> None:
    """Spaces aside; none is all."""
    assert parse_queue_choice(text) == QueueChoice(names)


def test_what_else_can_be_chosen() -> None:
    """Weights, a strict order, all but some."""
    assert parse_queue_choice("mail:3, images:1") == QueueChoice(("mail", "images"), weights=(3, 1))
    assert parse_queue_choice("mail,images", queue_order="strict") == QueueChoice(("mail", "images"), strict=True)
    assert parse_queue_choice("", "slow, big,slow") == QueueChoice(without=("slow", "big"))
    assert parse_queue_choice("") == ALL_QUEUES


@pytest.mark.parametrize(
    "given",
    [
        {"queues": "mail:3,images"}, {"queues": "mail:0"}, {"queues": "mail:x"}, {"queues": "mail,mail"},
        {"queues": "mail", "exclude_queues": "images"}, {"queue_order": "strict"},
        {"queues": "mail:3,images:1", "queue_order": "strict"}, {"queues": "mail", "queue_order": "fair"},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(given: dict[str, str]) -> None:
    """When the node starts, not in its children."""
    with pytest.raises(ConfigurationError, match="queue"):
        Settings(**given)  # type: ignore[arg-type]
