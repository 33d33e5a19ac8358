"""Where a worker finds the app: by import, by running the script again, or by value.

    program ──locate(app)──▶ Location ──(a file handed to the template)──▶ load(location) ──▶ App
    command line ──parse_app_argument("module:attribute")──▶ Location

A script is run again under another ``__name__``, as multiprocessing's spawn does, so a guarded script's
main part does not run, and an unguarded one is stopped at its first effect (see loading.py). An app that
neither a module nor a script holds under a name (a notebook, a REPL, a local variable) travels by value.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from poolrt.app import loading
from poolrt.app.app import App
from poolrt.brokers.urls import broker_from_url
from poolrt.codec import pickle, unpickle
from poolrt.errors import AppNotFound, ConfigurationError
from poolrt.script import SCRIPT_MODULE, main_script

log = logging.getLogger("poolrt.template")


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """How to find an app from a fresh interpreter."""

    kind: str
    """``import``, ``script`` or ``value``."""
    target: str
    """The module's name, or the script's path; for ``value`` the app's name."""
    attribute: str = ""
    package: str = ""
    """The package of a script started with ``python -m``, for its relative imports."""
    module: str = ""
    """The name of a module started with ``python -m``, by which its tasks are named."""
    broker: str = ""
    """The broker of the program's app: the pool serves that one, wherever the app found makes its own. May hold a
    password."""
    value: bytes = b""
    """The app, pickled; may hold a password too."""
    path: tuple[str, ...] = ()
    """``sys.path`` for the fresh interpreter; empty keeps its own, with the current folder first."""
    argv: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target}:{self.attribute}" if self.attribute else self.target

    def __repr__(self) -> str:
        """For bug reports; without the broker and the value, which may hold a password."""
        return f"<Location {self.kind} {self}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich, which shows locals in tracebacks."""
        return [("kind", self.kind), ("target", str(self))]


def parse_app_argument(text: str) -> Location:
    """The Location in ``module:attribute`` (``app`` is the default attribute); imports nothing.

    Raises:
        ConfigurationError: it cannot be one.
    """
    module, _, attribute = text.partition(":")
    names = [*module.split("."), *(attribute or "app").removesuffix("()").split(".")]
    if module.endswith(".py") or os.sep in module:
        raise ConfigurationError(
            f"app {text!r} is a file; name its module: {Path(module).stem}:{attribute or 'app'} (from its folder)"
        )
    if not all(name.isidentifier() for name in names):
        raise ConfigurationError(f"app {text!r} is not module:attribute; write for example proj.tasks:app")
    return Location(kind="import", target=module, attribute=attribute or "app")


def locate(app: App | str) -> Location:
    """How a fresh interpreter of this program finds ``app``.

    Raises:
        EncodingError: it must travel by value and cannot be pickled.
    """
    if isinstance(app, str):
        return msgspec.structs.replace(parse_app_argument(app), path=tuple(sys.path))
    module = sys.modules.get(app.defined_in)
    attribute = _attribute_of(module, app)
    path, argv, broker = tuple(sys.path), tuple(sys.argv), app.broker.secret_url
    if module is not None and attribute:
        if app.defined_in != "__main__":
            return Location(
                kind="import", target=app.defined_in, attribute=attribute, path=path, argv=argv, broker=broker
            )
        file = main_script()
        if file is not None:
            spec = getattr(module, "__spec__", None)
            package, name = (spec.parent or "", spec.name) if spec else ("", "")
            return Location(
                kind="script", target=file, attribute=attribute, package=package, module=name, path=path, argv=argv,
                broker=broker,
            )  # fmt: skip
    value = pickle(app, f"the app {app.name!r} (it has no name in a module, so it travels by value)")
    return Location(kind="value", target=app.name, value=value, path=path, argv=argv)


def _attribute_of(module: ModuleType | None, app: App) -> str:
    return next((name for name, value in vars(module).items() if value is app), "") if module else ""


Find = Callable[[], App]


def load(location: Location, go_on: Callable[[Find], object] | None = None) -> App:
    """Find the app in this interpreter.

    Args:
        location: where it is.
        go_on: called, instead of returning, when a script's run reaches its first effect (see loading.py); what it
            is given finds the app, or raises as this does. It does not return.

    Raises:
        AppNotFound: the module has no such attribute, or it is not an App.
        Exception: whatever importing the user's code raises.
    """
    if location.path:
        sys.path[:] = location.path
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if location.argv:
        sys.argv[:] = location.argv
    if location.kind == "value":
        return _checked(unpickle(location.value), location)
    if location.kind == "script":
        return _load_script(location, go_on)
    loading.begin("module")
    try:
        return _checked(_attribute(importlib.import_module(location.target), location), location)
    finally:
        loading.begin("")


def _load_script(location: Location, go_on: Callable[[Find], object] | None) -> App:
    module = ModuleType(SCRIPT_MODULE)
    module.__file__ = location.target
    module.__package__ = location.package
    if location.module:
        module.__spec__ = ModuleSpec(location.module, None, origin=location.target)
    sys.modules[SCRIPT_MODULE] = sys.modules["__main__"] = module
    source = Path(location.target).read_bytes()
    code = compile(source, location.target, "exec")

    def stopped(stop: loading.ScriptBodyReached) -> App:
        loading.begin("")
        if not any(isinstance(value, App) for value in vars(module).values()):
            raise AppNotFound(f"{location.target}:{stop.line} calls {stop.what} before the app is defined")
        if any(b".task" in line for line in source.splitlines()[stop.line :]):
            log.warning(
                "%s:%d calls %s: tasks defined below that line are unknown to workers; "
                "put the call under if __name__ == '__main__'", location.target, stop.line, stop.what,
            )  # fmt: skip
        return _checked(_attribute(module, location), location)

    loading.begin("script", None if go_on is None else lambda stop: go_on(lambda: stopped(stop)))
    try:
        exec(code, vars(module))  # noqa: S102  the user's own script, as multiprocessing's spawn runs it
        return _checked(_attribute(module, location), location)
    except loading.ScriptBodyReached as stop:
        return stopped(stop)
    finally:
        loading.begin("")


def _checked(found: object, location: Location) -> App:
    if not isinstance(found, App):
        raise AppNotFound(f"{location} is a {type(found).__name__}, not a poolrt.App")
    if location.broker and found.broker.secret_url != location.broker:
        found.broker = broker_from_url(location.broker)  # its path was computed, or the program had changed its folder
    return found


def _attribute(module: ModuleType, location: Location) -> object:
    found: object = module
    for name in location.attribute.removesuffix("()").split("."):
        if not hasattr(found, name):
            apps = [key for key, value in vars(module).items() if isinstance(value, App)]
            hint = f"; it has {', '.join(apps)}" if apps else ""
            raise AppNotFound(f"module {location.target} has no attribute {location.attribute!r}{hint}")
        found = getattr(found, name)
    return found() if location.attribute.endswith("()") and callable(found) else found
