"""Where a worker finds the app: by import, by running the script again, or by value.

    program ──locate(app)──▶ Location ──(a file handed to the template)──▶ load(location) ──▶ App
    command line ──parse_app_argument("module:attribute")──▶ Location

A script is run again under another ``__name__``, as multiprocessing's spawn does, so a guarded script's
main part does not run, and an unguarded one is stopped at its first effect (see loading.py). An app that
neither a module nor a script holds under a name (a notebook, a REPL, a local variable) travels by value.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import msgspec

from poolrt.app import loading
from poolrt.app.app import SCRIPT_MODULE, App
from poolrt.app.task import main_script
from poolrt.codec import pickle, unpickle
from poolrt.errors import AppNotFound, ConfigurationError


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """How to find an app from a fresh interpreter."""

    kind: str
    """``import``, ``script`` or ``value``."""
    target: str
    """The module's name, or the script's path; for ``value`` the app's name."""
    attribute: str = ""
    package: str = ""
    """The package of a script started with ``python -m``, for its relative imports."""
    value: bytes = b""
    path: tuple[str, ...] = ()
    """``sys.path`` for the fresh interpreter; empty keeps its own, with the current folder first."""
    argv: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target}:{self.attribute}" if self.attribute else self.target


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
    path, argv = tuple(sys.path), tuple(sys.argv)
    if module is not None and attribute:
        if app.defined_in != "__main__":
            return Location(kind="import", target=app.defined_in, attribute=attribute, path=path, argv=argv)
        file = main_script()
        if file is not None:
            spec = getattr(module, "__spec__", None)
            package = spec.parent or "" if spec else ""
            return Location(kind="script", target=file, attribute=attribute, package=package, path=path, argv=argv)
    value = pickle(app, f"the app {app.name!r} (it has no name in a module, so it travels by value)")
    return Location(kind="value", target=app.name, value=value, path=path, argv=argv)


def _attribute_of(module: ModuleType | None, app: App) -> str:
    return next((name for name, value in vars(module).items() if value is app), "") if module else ""


def load(location: Location) -> App:
    """Find the app in this interpreter.

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
        found = unpickle(location.value)
    else:
        loading.begin("script" if location.kind == "script" else "module")
        try:
            module = _run_script(location) if location.kind == "script" else importlib.import_module(location.target)
            found = _attribute(module, location)
        finally:
            loading.begin("")
    if not isinstance(found, App):
        raise AppNotFound(f"{location} is a {type(found).__name__}, not a poolrt.App")
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


def _run_script(location: Location) -> ModuleType:
    module = ModuleType(SCRIPT_MODULE)
    module.__file__ = location.target
    module.__package__ = location.package
    sys.modules[SCRIPT_MODULE] = sys.modules["__main__"] = module
    code = compile(Path(location.target).read_bytes(), location.target, "exec")
    try:
        exec(code, vars(module))  # noqa: S102  the user's own script, as multiprocessing's spawn runs it
    except loading.ScriptBodyReached as stop:
        if not any(isinstance(value, App) for value in vars(module).values()):
            raise AppNotFound(f"{location.target}:{stop.line} calls {stop.what} before the app is defined") from None
    return module
