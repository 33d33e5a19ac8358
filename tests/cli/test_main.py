"""The group: help, versions, unknown names, and one line with the right exit code for every error."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from poolrt.cli import status
from poolrt.cli.main import COMMANDS, KNOWN_ELSEWHERE
from poolrt.errors import BrokerCorrupt, ExitCode
from poolrt.version import VERSION

HEAVY = ("rich", "redis", "psutil", "sqlite3", "cloudpickle", "asyncio", "multiprocessing")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(poolrt, name, flag):
    """Each command takes -h and --help, and ends its help with examples of itself."""
    said = poolrt(name, flag)
    assert said.code == ExitCode.OK
    assert f"Usage: poolrt {name}" in said.out
    assert "Examples:" in said.out
    assert f"  poolrt {name}" in said.out.partition("Examples:")[2]


def test_the_group_lists_its_commands(poolrt):
    """``poolrt -h`` names every command with a sentence that is not cut."""
    said = poolrt("-h")
    assert said.code == ExitCode.OK
    assert all(f"\n  {name} " in said.out for name in COMMANDS)
    assert "..." not in said.out.partition("Commands:")[2]


def test_no_command_is_a_usage_error_with_help(poolrt):
    """``poolrt`` alone prints the help on stderr and exits 2, so that a script sees its mistake."""
    said = poolrt()
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert "Commands:" in said.err


def test_version(poolrt):
    """``--version`` names poolrt's version and the interpreter's."""
    said = poolrt("--version")
    assert said.code == ExitCode.OK
    assert VERSION in said.out
    assert sys.version.split()[0] in said.out


def test_python_m_poolrt_is_the_command_line():
    """``python -m poolrt`` is ``poolrt``."""
    done = subprocess.run(
        [sys.executable, "-m", "poolrt", "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"poolrt {VERSION}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("statsu", "status"), ("serv", "serve"), ("dmeo", "demo"), ("worke", "serve"), *KNOWN_ELSEWHERE.items()],
)
def test_an_unknown_command_names_the_nearest(poolrt, typed, meant):
    """A typing error, or another tool's word, is answered with the command that was meant."""
    said = poolrt(typed)
    assert said == (ExitCode.USAGE, "", f"poolrt: no command '{typed}' (did you mean 'poolrt {meant}'?)\n")


def test_an_unknown_command_far_from_all(poolrt):
    """A word near nothing is answered with where the words are listed."""
    said = poolrt("xyzzy")
    assert said == (ExitCode.USAGE, "", "poolrt: no command 'xyzzy' ('poolrt --help' lists them)\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nope",),
        ("serve", "--concurency", "3"),
        ("serve", "a:b", "-c"),
        ("serve", "a:b", "more"),
        ("demo", "-c", "0"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_2(poolrt, arguments):
    """What click refuses comes as one line on stderr, without click's own usage lines."""
    said = poolrt(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert said.err.startswith("poolrt: ")


def test_an_unknown_flag_names_the_nearest(poolrt):
    """A typing error in a flag is answered with the flag that was meant."""
    assert "--concurrency" in poolrt("serve", "--concurency", "3").err


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(node: str | None) -> dict[str, object]:
        raise error

    monkeypatch.setattr(status, "ask", fail)


def test_an_error_of_poolrt_is_one_line_with_its_own_exit_code(poolrt, monkeypatch):
    """A PoolrtError ends the command with one line and the exit code of its class, without a traceback."""
    _failing(monkeypatch, BrokerCorrupt("jobs.db is not a database\nmove it away"))
    said = poolrt("status")
    assert said == (ExitCode.BROKER_UNUSABLE, "", "poolrt: jobs.db is not a database / move it away\n")


def test_an_unforeseen_error_is_one_line_too(poolrt, monkeypatch):
    """What nobody foresaw is exit code 1, and its line says how to see more."""
    _failing(monkeypatch, ZeroDivisionError("by zero"))
    said = poolrt("status")
    assert said.code == ExitCode.UNEXPECTED
    assert said.err == "poolrt: unexpected ZeroDivisionError: by zero (run again with -v for the traceback)\n"


@pytest.mark.parametrize("arguments", [("-v", "status"), ("status", "-v")])
def test_v_shows_the_traceback(poolrt, monkeypatch, arguments):
    """-v, before or after the command, adds the traceback; the one line stays the last."""
    _failing(monkeypatch, ZeroDivisionError("by zero"))
    said = poolrt(*arguments)
    assert said.err.startswith("Traceback (most recent call last):")
    assert said.err.splitlines()[-1].startswith("poolrt: unexpected ZeroDivisionError")


def test_the_debug_variable_shows_the_traceback(poolrt, monkeypatch):
    """POOLRT_DEBUG=1 is -v for those who cannot change the command line."""
    _failing(monkeypatch, ZeroDivisionError("by zero"))
    monkeypatch.setenv("POOLRT_DEBUG", "1")
    assert "Traceback" in poolrt("status").err


def test_an_interrupt_is_130(poolrt, monkeypatch):
    """^C ends a command as shells expect, without a traceback."""
    _failing(monkeypatch, KeyboardInterrupt())
    said = poolrt("status")
    assert said.code == 130
    assert "Traceback" not in said.err


@pytest.mark.parametrize("module", ["poolrt.cli.main", "poolrt.cli.serve"])
def test_the_door_is_light(module):
    """Importing the group, or serve, loads nothing heavy: serve becomes the supervisor and keeps it."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert not set(HEAVY) & set(done.stdout.split())


def test_commands_load_when_they_are_named():
    """Naming one command does not import another's module."""
    script = (
        "import sys; from poolrt.cli.main import run; code = run(['serve']); "
        "print(code, *[name for name in sys.modules if name.startswith('poolrt.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    code, *loaded = done.stdout.split()
    assert code == "2"
    assert "poolrt.cli.serve" in loaded
    assert not {"poolrt.cli.status", "poolrt.cli.demo", "poolrt.cli.pool_view"} & set(loaded)


def test_every_command_is_a_click_command(poolrt):
    """The table of commands names what exists."""
    from poolrt.cli.main import cli

    context = click.Context(cli)
    assert all(isinstance(cli.get_command(context, name), click.Command) for name in COMMANDS)
