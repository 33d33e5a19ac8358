"""Where a worker finds the app: the command line's words, modules, scripts and values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolrt.app.app import SCRIPT_MODULE, App, default_task_name
from poolrt.app.location import Location, load, locate, parse_app_argument
from poolrt.errors import AppNotFound, ConfigurationError, EncodingError


@pytest.fixture(autouse=True)
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What loading changes of the interpreter is put back."""
    path, argv, modules = list(sys.path), list(sys.argv), dict(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:], sys.argv[:] = path, argv
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)


def write(folder: Path, name: str, *lines: str) -> Path:
    """A file that makes an app, then does ``lines``."""
    file = folder / f"{name}.py"
    file.write_text(f"from poolrt import App\napp = App({name!r}, 'sqlite:////nowhere/x.db')\n" + "\n".join(lines))
    return file


@pytest.mark.parametrize(
    ("text", "target", "attribute"),
    [
        ("proj.tasks:app", "proj.tasks", "app"),
        ("tasks", "tasks", "app"),
        ("tasks:make_app()", "tasks", "make_app()"),
        ("tasks:site.queue", "tasks", "site.queue"),
    ],
)
def test_app_arguments(text: str, target: str, attribute: str) -> None:
    """``module:attribute``, whose attribute may be dotted or a factory, and is ``app`` unless given."""
    location = parse_app_argument(text)
    assert (location.kind, location.target, location.attribute) == ("import", target, attribute)
    assert str(location) == f"{target}:{attribute}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks.py", "is a file; name its module: tasks:app"),
        ("src/tasks.py:queue", "is a file; name its module: tasks:queue"),
        ("", "write for example proj.tasks:app"),
        ("a b", "is not module:attribute"),
        ("a::b", "is not module:attribute"),
        ("a:b c", "is not module:attribute"),
        ("-x", "is not module:attribute"),
    ],
)
def test_wrong_app_arguments(text: str, said: str) -> None:
    """What cannot be an app is refused with what to write."""
    with pytest.raises(ConfigurationError, match=said):
        parse_app_argument(text)


def test_an_app_of_a_module_is_imported(interpreter: Path) -> None:
    """A module's app is found under its name, in the module that made it."""
    write(interpreter, "shop_module")
    import shop_module  # type: ignore[import-not-found]

    location = locate(shop_module.app)
    assert (location.kind, location.target, location.attribute) == ("import", "shop_module", "app")
    assert load(location) is shop_module.app
    assert load(locate("shop_module")) is shop_module.app


def test_factories_and_attributes_are_followed(interpreter: Path) -> None:
    """``module:factory()`` calls the factory; a dotted attribute is followed."""
    write(interpreter, "shop_factory", "def make(): return app", "class site: queue = app")
    for argument in ("shop_factory:make()", "shop_factory:site.queue"):
        assert load(parse_app_argument(argument)).name == "shop_factory"


def test_what_is_not_there_is_named(interpreter: Path) -> None:
    """A wrong attribute is answered with the apps there are; another thing is named by its type."""
    write(interpreter, "shop_wrong", "number = 5")
    with pytest.raises(AppNotFound, match="module shop_wrong has no attribute 'application'; it has app"):
        load(parse_app_argument("shop_wrong:application"))
    with pytest.raises(AppNotFound, match=r"shop_wrong:number is a int, not a poolrt\.App"):
        load(parse_app_argument("shop_wrong:number"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load(parse_app_argument("no_such_module"))


@pytest.mark.parametrize(
    "ending", ["if __name__ == '__main__':\n    raise SystemExit('ran as main')", "add.delay(1)\nraise 1"]
)
def test_scripts_run_up_to_their_first_effect(ending: str, interpreter: Path) -> None:
    """A script's tasks are learnt whether or not its main part is guarded, and nothing of that part happens."""
    file = write(interpreter, "shop_script", "@app.task", "def add(x): return x", ending)
    app = load(Location(kind="script", target=str(file), attribute="app", path=tuple(sys.path)))
    assert list(app.tasks) == ["shop_script.add"]
    assert app.defined_in == SCRIPT_MODULE


def test_a_script_that_acts_before_its_app_exists(interpreter: Path) -> None:
    """An effect above the app is told with its line."""
    other = write(interpreter, "shop_other", "@app.task", "def add(x): return x")
    file = interpreter / "shop_early.py"
    file.write_text("import shop_other\n\nshop_other.add.delay(1)\n")
    with pytest.raises(AppNotFound, match=rf"{file}:3 calls shop_other.add.delay before the app is defined"):
        load(Location(kind="script", target=str(file), attribute="app", path=tuple(sys.path)))
    assert other.exists()


def test_a_module_that_enqueues_at_import(interpreter: Path) -> None:
    """A module that would enqueue at each start of each worker is refused by place."""
    file = write(interpreter, "shop_eager", "@app.task", "def add(x): return x", "add.delay(1)")
    with pytest.raises(ConfigurationError, match=rf"{file}:5 calls shop_eager.add.delay while the module is imported"):
        load(parse_app_argument("shop_eager"))


def test_an_app_without_a_name_travels_by_value() -> None:
    """A local app is pickled with its tasks, and opens its own broker from the URL."""
    app = App("local", "sqlite:////nowhere/x.db")
    offset = 3
    app.task(name="shift")(lambda x: x + offset)
    location = locate(app)
    assert location.kind == "value"
    again = load(location)
    assert again is not app
    assert again.broker is not app.broker
    assert (again.name, again.broker.url) == ("local", app.broker.url)
    assert again.tasks["shift"](1) == 4


def test_an_app_that_cannot_travel_is_refused() -> None:
    """A local app whose task holds what cannot be pickled is refused at the start, by name."""
    app = App("local", "sqlite:////nowhere/x.db")
    stdout = open(__file__, "rb")  # noqa: SIM115  closed below
    try:
        app.task(name="bad")(lambda: stdout)
        with pytest.raises(EncodingError, match=r"the app 'local' .* cannot be pickled"):
            locate(app)
    finally:
        stdout.close()


def test_default_names() -> None:
    """A task is named by module and qualified name, whatever it is."""
    assert default_task_name(test_default_names) == f"{__name__}.test_default_names"
    assert default_task_name(lambda: None).endswith(".test_default_names.<locals>.<lambda>")
