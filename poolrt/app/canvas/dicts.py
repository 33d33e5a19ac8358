"""Signatures from their JSON form, which is Celery's: ``{"task": …, "args": …, "options": …, "subtask_type": …}``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from poolrt.app.canvas.signature import Call, Signature, chain, chord, group
from poolrt.errors import ConfigurationError

if TYPE_CHECKING:
    from poolrt.app.app import App

_MOMENTS: Final = ("eta", "expires")


def signature_of(app: App, data: Mapping[str, Any]) -> Signature[Any]:
    """The signature that ``Signature.to_dict`` made this of; raises ConfigurationError."""
    try:
        return _read(app, data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"not a signature: {type(error).__name__}: {error}") from None


def call_of(
    app: App, name: str, args: Any = (), kwargs: Mapping[str, Any] | None = None, *, immutable: bool = False
) -> Call[Any]:
    """A call of the task of this name; raises ConfigurationError if the app has none."""
    task = app.tasks.get(name) or app.builtin.get(name)
    if task is None:
        raise ConfigurationError(f"app {app.name} has no task {name!r}: import the module that declares it")
    return Call(task, args, kwargs, immutable=immutable)


def _read(app: App, data: Mapping[str, Any]) -> Signature[Any]:
    kind, kwargs = data.get("subtask_type"), data.get("kwargs") or {}
    made: Signature[Any]
    if kind == "chain":
        made = chain(*(_read(app, each) for each in kwargs["tasks"]))
    elif kind == "group":
        made = group([_read(app, each) for each in kwargs["tasks"]])
    elif kind == "chord":
        errors = bool(kwargs.get("collect_errors", False))
        made = chord(_read(app, kwargs["header"]), _read(app, kwargs["body"]), collect_errors=errors)
    else:
        made = call_of(app, data["task"], data.get("args") or (), kwargs, immutable=bool(data.get("immutable")))
    options = dict(data.get("options") or {})
    links = [_read(app, each) for each in options.pop("link", None) or ()]
    errbacks = [_read(app, each) for each in options.pop("link_error", None) or ()]
    for name in _MOMENTS:
        if isinstance(options.get(name), str) and "T" in options[name]:
            options[name] = datetime.fromisoformat(options[name])
    for link in links:
        made = made.link(link)
    for errback in errbacks:
        made = made.link_error(errback)
    return made.set(**options) if options else made
