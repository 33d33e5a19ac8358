"""The scenarios of ``stress.leaks``: what they say is what they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stress.leaks.__main__ import Case, broken, report
from stress.leaks.scenario import Outcome

ROOT = Path(__file__).resolve().parents[2]


def test_a_leak_is_named_and_a_pool_is_not():
    """One of each, as the command runs them, in processes of their own."""
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("read from /proc")
    done = subprocess.run(
        [
            sys.executable, "-m", "stress.leaks", "--watch", "descriptors", "--jobs", "1",
            "--only", "connection,one pooled connection",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| connection | connections | 30 (" in done.stdout
    assert "| one pooled connection | 1000 | 0 |" in done.stdout


def test_what_breaks_a_promise():
    """A false name, a leak that was missed, and a scenario that failed; a rare leak may be missed."""
    right = Outcome(100, 30, 3, [("connections", "suspect", "a:1")], right=True, seconds=1, watching=0)
    missed = right._replace(found=[], right=False)
    false = right._replace(right=False)
    outcomes = {
        Case("connection", 0.02, 0): right,
        Case("connection", 0.005, 0): missed,
        Case("one pooled connection", 0, 0): missed._replace(right=True),
    }
    assert broken(outcomes) == []
    bad = {Case("connection", 0.02, 1): missed, Case("pipe", 1.0, 1): false, Case("file", 1.0, 1): "it failed"}
    assert len(broken(outcomes | bad)) == 3
    text = report(outcomes | bad, (1.0, 0.02, 0.005))
    assert "| connection | connections | not in 0 | 30 (100), 1/2 | not in 30 |" in text
    assert "it failed" in text
    assert json.loads(json.dumps(right))[0] == 100
