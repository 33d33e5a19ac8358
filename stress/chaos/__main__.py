"""The command line: ``python -m stress.chaos`` lists the scenarios, ``python -m stress.chaos NAME …`` runs one.

A scenario is a module of this package with a function ``main()`` that reads ``sys.argv``; the first sentence of its
docstring is what the list says of it.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent


def scenarios() -> dict[str, str]:
    """Each scenario and its one sentence; read, not imported: one may need what is not installed."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        tree = ast.parse(path.read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and path.stem != "__main__":
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main() -> None:
    """Do what the command line says."""
    known = scenarios()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in known:
        sys.argv = [f"python -m stress.chaos {name}", *sys.argv[2:]]
        importlib.import_module(f"stress.chaos.{name}").main()
        return
    print("python -m stress.chaos SCENARIO [--small | --full] …; SCENARIO --help says more\n")
    for scenario, sentence in known.items():
        print(f"  {scenario:16} {sentence}")
    if name not in ("", "list", "-h", "--help"):
        sys.exit(f"\nstress.chaos: no scenario {name!r}")


if __name__ == "__main__":
    main()
