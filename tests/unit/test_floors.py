"""The layout is a rule, not a wish: floors, sides, sizes and names, read from the source (docs/CONTRIBUTING.md).

Every import counts, also one inside a function, under ``if TYPE_CHECKING`` or through ``import_module("poolrt.x")``;
only for cycles, those for types alone do not: they never run.
The unit is the name right under ``poolrt``: a module, or a package with all that it holds.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = (
    ("errors", "states", "clock", "events", "version"),
    (
        "units",
        "settings",
        "queue_choice",
        "terms",
        "message",
        "codec",
        "script",
        "byvalue",
        "board",
        "notice",
        "control",
        "logs",
        "shielding",
        "incarnation",
        "posix",
        "hygiene",
    ),
    ("brokers", "results"),
    ("supervisor", "app", "schedule"),
    ("child", "steward", "template"),
    ("service", "embed", "executor"),
    ("__init__", "__main__", "cli", "top", "web", "celery", "testing"),
)
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# Within one floor, plain modules are siblings in `poolrt` and may name each other.
# Where a package is on either end, only what stands here is allowed.
WITHIN_A_FLOOR = {
    "board": {"posix"},  # F1: the mapping
    "control": {"posix"},  # F1: the socket
    "notice": {"posix", "hygiene"},  # F1: the socketpair, and a notice of what hygiene found
    "settings": {"posix", "units", "hygiene"},  # F1: cgroup and affinity defaults, policies
    "hygiene": {"posix", "units", "codec", "message"},  # F1: what its watches read; messages of what crashed
    "steward": {"child"},  # F4: it is a child with another main
    "template": {"child", "steward"},  # F4: it forks both
    "__main__": {"cli"},  # F6: `python -m poolrt` is the command line
    "cli": {"top", "web"},  # F6: its commands open the other faces
    "top": {"cli"},  # F6: it draws with the parts of `poolrt status`
}

# The supervisor runs no user code and speaks to no broker; a child knows nothing of who guards it.
NEVER = {
    "supervisor": {"poolrt.app", "poolrt.brokers", "poolrt.results", "redis", "rich"},
    "child": {"poolrt.supervisor"},
}
POSIX_ONLY = {"ctypes", "fcntl"}
OTHER_SIDE = {"template", "child", "steward", "app"}
MAY_NAME_BOTH_SIDES = {"service", "executor", "__init__"}  # __init__ re-exports lazily

MOST_LINES = 400
NO_NAMES = {"util", "utils", "common", "manager", "helper", "helpers"}


class Import(NamedTuple):
    """One place that names a module."""

    module: str  # the importer, dotted
    target: str  # what it names, dotted
    where: str  # path:line
    for_types: bool = False  # it stands under ``if TYPE_CHECKING``

    def __str__(self) -> str:
        return f"{self.where} imports {self.target}"


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


class Tree:
    """The modules of one package, parsed once: what each imports, and where it mentions ``sys.platform``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = {_dotted(path, root): path for path in sorted((root / "poolrt").rglob("*.py"))}
        self.imports: list[Import] = []
        self.platform: list[tuple[str, str]] = []
        for module, path in self.paths.items():
            nodes = list(ast.walk(ast.parse(path.read_text(), str(path))))
            for_types = {id(inner) for node in nodes if _is_type_checking(node) for inner in ast.walk(node)}
            for node in nodes:
                where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
                self.imports += [
                    Import(module, target, where, id(node) in for_types) for target in self._targets(node, module)
                ]
                if _mentions_platform(node):
                    self.platform.append((module, where))

    def _targets(self, node: ast.AST, module: str) -> list[str]:
        """The dotted modules that ``node`` imports; empty for anything but an import."""
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if self.paths[module].name == "__init__.py" else module.rpartition(".")[0]
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            named = [f"{base}.{alias.name}" for alias in node.names]
            return [name if name in self.paths else base for name in named]
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            target = node.args[0].value
            if name in {"import_module", "__import__"} and isinstance(target, str):
                return [target]
        return []

    def inner(self) -> list[Import]:
        """The imports that stay inside the package."""
        return [found for found in self.imports if found.target.split(".")[0] == "poolrt"]

    def reached(self, unit: str) -> dict[str, Import]:
        """Every target that ``unit``'s modules import, directly or through others, and who names it."""
        reached: dict[str, Import] = {}
        todo = [module for module in self.paths if _unit(module) == unit]
        seen = set(todo)
        while todo:
            module = todo.pop()
            for found in self.imports:
                if found.module == module:
                    reached.setdefault(found.target, found)
                    if found.target in self.paths and found.target not in seen and _unit(found.target) != "__init__":
                        seen.add(found.target)
                        todo.append(found.target)
        return reached

    def is_package(self, unit: str) -> bool:
        return (self.root / "poolrt" / unit).is_dir()


def _dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _unit(module: str) -> str:
    """``poolrt.child.loop`` belongs to ``child``; ``poolrt`` itself to ``__init__``."""
    return module.split(".")[1] if "." in module else "__init__"


def _mentions_platform(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "platform" and isinstance(node.value, ast.Name) and node.value.id == "sys"
    return isinstance(node, ast.ImportFrom) and node.module == "sys" and any(a.name == "platform" for a in node.names)


def _is_under(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(prefix + ".")


# ---- the rules: each returns what breaks it, one line a finding


def homeless(tree: Tree) -> list[str]:
    units = {_unit(module) for module in tree.paths}
    return [f"poolrt/{unit} stands on no floor: add it to FLOORS" for unit in sorted(units - set(FLOOR))]


def upward(tree: Tree) -> list[str]:
    wrong = []
    for found in tree.inner():
        here, there = _unit(found.module), _unit(found.target)
        if here == there or here not in FLOOR or there not in FLOOR:
            continue
        siblings = not (tree.is_package(here) or tree.is_package(there)) and "__init__" not in {here, there}
        same = FLOOR[here] == FLOOR[there] and (siblings or there in WITHIN_A_FLOOR.get(here, ()))
        if not same and FLOOR[there] >= FLOOR[here] and here != "__init__":
            kind = "above it" if FLOOR[there] > FLOOR[here] else "beside it, which WITHIN_A_FLOOR does not allow"
            wrong.append(f"{found}: {here} is on F{FLOOR[here]}, {there} (F{FLOOR[there]}) {kind}")
    return wrong


def cycles(tree: Tree) -> list[str]:
    """Cycles between modules. A name that a package's ``__init__`` re-exports counts as that ``__init__``."""
    graph: dict[str, set[str]] = {module: set() for module in tree.paths}
    for found in tree.inner():
        if found.target in graph and found.module not in {found.target, "poolrt"} and not found.for_types:
            graph[found.module].add(found.target)
    wrong, done = [], set[str]()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            wrong.append("a cycle: " + " -> ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
    return wrong


def forbidden(tree: Tree) -> list[str]:
    """What a unit must never load, not even through a module that it imports."""
    return [
        f"{unit} must never reach {bad}: {found}"
        for unit, banned in NEVER.items()
        for target, found in tree.reached(unit).items()
        for bad in sorted(banned)
        if _is_under(target, bad)
    ]


def outside_posix(tree: Tree) -> list[str]:
    system = [
        str(found)
        for found in tree.imports
        if found.target.split(".")[0] in POSIX_ONLY and _unit(found.module) != "posix"
    ]
    platform = [f"{where} mentions sys.platform" for module, where in tree.platform if _unit(module) != "posix"]
    return [f"{line}: only posix/ may" for line in system + platform]


def both_sides(tree: Tree) -> list[str]:
    named: dict[str, dict[str, Import]] = {}
    for found in tree.inner():
        named.setdefault(_unit(found.module), {}).setdefault(_unit(found.target), found)
    return [
        f"{unit} names both sides ({targets['supervisor']}; {targets[other]}): only service and executor wire them"
        for unit, targets in named.items()
        if unit not in MAY_NAME_BOTH_SIDES | {"supervisor"} | OTHER_SIDE and "supervisor" in targets
        for other in sorted(OTHER_SIDE & set(targets))
    ]


def too_long(tree: Tree) -> list[str]:
    sizes = {path: len(path.read_text().splitlines()) for path in tree.paths.values()}
    return [
        f"{path.relative_to(tree.root)} has {lines} lines, at most {MOST_LINES}: it does more than one thing"
        for path, lines in sizes.items()
        if lines > MOST_LINES
    ]


def misnamed(root: Path) -> list[str]:
    """Files and folders whose name says nothing; ``pool_manager.py`` hides behind a word as ``manager.py`` does."""
    paths = [path for top in ("poolrt", "tests", "stress") for path in sorted((root / top).rglob("*"))]
    return [
        f"{path.relative_to(root)}: name it for what it holds, not {word!r}"
        for path in paths
        if path.suffix == ".py" or path.is_dir()
        for word in sorted(NO_NAMES & set(re.split(r"[_\-.]", path.stem.lower())))
    ]


RULES = (homeless, upward, cycles, forbidden, outside_posix, both_sides, too_long)


# ---- poolrt keeps them


@pytest.fixture(scope="module")
def poolrt_tree() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_poolrt_keeps_the_layout(rule, poolrt_tree):
    """Every module of poolrt/ keeps this rule of the layout."""
    found = rule(poolrt_tree)
    assert not found, "\n".join(["", *found])


def test_every_file_is_named_for_what_it_holds():
    """No file or folder of poolrt, tests or stress is a util, common, manager or helper."""
    found = misnamed(ROOT)
    assert not found, "\n".join(["", *found])


# ---- and each rule sees its fault


FAULTS = [
    (homeless, {"misc.py": ""}, "misc stands on no floor"),
    (upward, {"errors.py": "import poolrt.settings"}, "errors is on F0, settings (F1) above it"),
    (upward, {"errors.py": "def f():\n    from . import settings"}, "above it"),
    (upward, {"errors.py": "if TYPE_CHECKING:\n    from .settings import X"}, "above it"),
    (upward, {"errors.py": "from importlib import import_module\nimport_module('poolrt.settings')"}, "above it"),
    (upward, {"app/task.py": "from ..child.loop import x", "child/loop.py": ""}, "app is on F3, child (F4)"),
    (upward, {"app/task.py": "from poolrt import App"}, "__init__ (F6) above it"),
    (upward, {"app/__init__.py": "from ..supervisor import x", "supervisor/__init__.py": ""}, "beside it"),
    (cycles, {"child/a.py": "from . import b", "child/b.py": "def f():\n    from poolrt.child import a"}, "a cycle"),
    (cycles, {"states.py": "import poolrt.clock", "clock.py": "import poolrt.states"}, "a cycle"),
    (forbidden, {"supervisor/loop.py": "import redis.client"}, "supervisor must never reach redis"),
    (forbidden, {"supervisor/loop.py": "import poolrt.notice", "notice.py": "import rich"}, "never reach rich"),
    (
        forbidden,
        {"child/loop.py": "from poolrt.supervisor.judge import x", "supervisor/judge.py": ""},
        "child must never",
    ),
    (outside_posix, {"board.py": "import ctypes.util"}, "imports ctypes.util: only posix/ may"),
    (outside_posix, {"board.py": "import sys\nif sys.platform == 'linux': pass"}, "board.py:2 mentions sys.platform"),
    (outside_posix, {"board.py": "from sys import platform"}, "mentions sys.platform"),
    (both_sides, {"cli/a.py": "import poolrt.supervisor", "cli/b.py": "import poolrt.app"}, "cli names both sides"),
    (too_long, {"board.py": "x = 1\n" * 401}, "board.py has 401 lines"),
]


@pytest.mark.parametrize(("rule", "files", "says"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_sees_its_fault(rule, files, says, tmp_path):
    """Each rule reports a tree made to break it, by file and reason."""
    found = rule(_plant(tmp_path, {"__init__.py": "", "settings.py": "", "app/__init__.py": "", **files}))
    assert any(says in line for line in found), found


def test_what_the_layout_allows_is_not_reported(tmp_path):
    """Lower floors, siblings, the template's two children, posix/ and the lazy face pass every rule."""
    tree = _plant(
        tmp_path,
        {
            "__init__.py": "if TYPE_CHECKING:\n    from .app import App\n    from .supervisor import Supervisor",
            "posix/lock.py": "import fcntl, sys\nsys.platform",
            "board.py": "from poolrt.posix import lock",
            "app/__init__.py": "from poolrt.app.task import Task",
            "app/task.py": "from . import result\nfrom ..errors import X",
            "app/result.py": "import redis",
            "errors.py": "",
            "supervisor/__init__.py": "import poolrt.board",
            "child/__init__.py": "import poolrt.app.task",
            "template/__init__.py": "import poolrt.child.x",
            "service.py": "from poolrt import supervisor, template",
        },
    )
    assert [rule(tree) for rule in RULES] == [[]] * len(RULES)


@pytest.mark.parametrize("name", ["utils.py", "pool_manager.py", "helpers/x.py"])
def test_a_bad_name_is_seen(name, tmp_path):
    """A name that says nothing is reported, alone, as a part, or as a folder."""
    _plant(tmp_path, {name: ""})
    assert misnamed(tmp_path)


def _plant(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / "poolrt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root)
