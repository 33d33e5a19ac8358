"""The demo's app: one task that works, and three that do what tasks do at night."""

from __future__ import annotations

import ast
import os
import signal
from pathlib import Path
from typing import Any

from poolrt.app.app import App
from poolrt.cli.demo import BROKER_VARIABLE

app = App("demo", broker=os.environ.get(BROKER_VARIABLE, "sqlite:///poolrt-demo.db"))


@app.task(name="parse")
def parse(path: str) -> dict[str, int]:
    """Parse one module and count what is in it."""
    source = Path(path).read_bytes()
    counts = {"lines": source.count(b"\n"), "nodes": 0, "functions": 0, "classes": 0}
    for node in ast.walk(ast.parse(source, path)):
        counts["nodes"] += 1
        counts["functions"] += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        counts["classes"] += isinstance(node, ast.ClassDef)
    return counts


@app.task(name="raise")
def raises(what: str) -> None:
    """Raise as real tasks do; it ends as failed."""
    match what:
        case "no such file":
            Path("/no/such/module.py").read_bytes()
        case "broken source":
            ast.parse("def half(:")
        case _:
            int("seven")


@app.task(name="crash")
def crash(how: str) -> None:
    """End the process that runs it, each time; it ends as dead."""
    if how == "exit":
        os._exit(70)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="crash-once", bind=True)
def crash_once(self: Any) -> int:
    """End the process that runs it the first time only; it succeeds, and returns how many children it cost."""
    lost: int = self.request.lost
    if not lost:
        os.kill(os.getpid(), signal.SIGKILL)
    return lost
