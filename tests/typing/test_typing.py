"""mypy and pyright see what a task takes and gives: the sample's errors are found, and no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLE = HERE / "sample.py"

pytest.importorskip("mypy")


def expected() -> dict[int, set[str]]:
    """The error codes that the sample's comments announce, by line."""
    found = {}
    for number, line in enumerate(SAMPLE.read_text().splitlines(), start=1):
        announced = re.search(r"# E: (.+)$", line)
        if announced:
            found[number] = set(announced[1].split(", "))
    return found


@pytest.mark.timeout(180)  # a cold cache
def test_sample(private_tmp: Path) -> None:
    """``mypy --strict`` finds exactly the announced errors, so every ``assert_type`` of the sample holds."""
    command = [
        sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty",
        "--show-error-codes", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"),
        str(SAMPLE),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=private_tmp,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.stderr == ""
    found: dict[int, set[str]] = {}
    for line in done.stdout.splitlines():
        error = re.match(rf"{re.escape(str(SAMPLE))}:(\d+): error: .*\[([a-z-]+)\]$", line)
        assert error or ": note: " in line, line
        if error:
            found.setdefault(int(error[1]), set()).add(error[2])
    assert found == expected()


@pytest.mark.timeout(180)  # its first start unpacks itself
def test_sample_under_pyright(private_tmp: Path) -> None:
    """pyright finds an error in each line where one is announced, and in no other."""
    pytest.importorskip("pyright")
    folder = private_tmp / "pyright"
    folder.mkdir()
    (folder / "sample.py").write_text(SAMPLE.read_text())
    settings = {"include": ["sample.py"], "extraPaths": [str(ROOT)], "pythonPlatform": "Linux"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable], cwd=folder,
            capture_output=True, text=True, timeout=170, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)
    told = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each for each in told if each["severity"] == "error" and each["file"].endswith("sample.py")]
    found = {each["range"]["start"]["line"] + 1: each["message"] for each in errors}
    assert sorted(found) == sorted(expected()), found
