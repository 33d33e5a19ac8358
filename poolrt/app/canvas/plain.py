"""Signatures as JSON carries them: in the form of Celery's dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolrt.app.canvas.signature import Signature


def composed(kind: str, made: Signature[Any], **parts: Any) -> dict[str, Any]:
    """A chain, group or chord."""
    return {
        "task": f"poolrt.{kind}", "args": [], "kwargs": parts, "options": plain_options(made), "subtask_type": kind,
        "immutable": False,
    }  # fmt: skip


def plain_options(made: Signature[Any]) -> dict[str, Any]:
    """The options as JSON carries them: moments as texts."""
    options = {
        name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in made.options.items()
    }
    if made.links:
        options["link"] = [each.to_dict() for each in made.links]
    if made.errbacks:
        options["link_error"] = [each.to_dict() for each in made.errbacks]
    return options
