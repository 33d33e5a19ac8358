"""``poolrt demo``: the main job on real input, end to end; and an account that finds each way not to balance."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from poolrt.brokers.base import Depth
from poolrt.cli.demo import command as demo_command
from poolrt.cli.demo import stdlib
from poolrt.cli.demo.account import Accepted, Account
from poolrt.cli.demo.account_view import account_view, befallen
from poolrt.cli.demo.run import Progress, left_over
from poolrt.cli.demo.screens import LiveScreen, PlainScreen, Tally
from poolrt.errors import ExitCode
from poolrt.message import ErrorInfo, Record
from poolrt.states import TaskState

OK, FAILED, DEAD = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.DEAD


# ---- end to end


def test_the_demo_accounts_for_every_task(command):
    """``poolrt demo --json`` parses the whole library, contains each offender and names it; its one object balances."""
    process = command("demo", "--json")
    out, err = process.communicate(timeout=58)
    assert process.returncode == ExitCode.OK, err
    account = json.loads(out)
    assert account["problems"] == []
    assert account["accepted"] == account["succeeded"] + account["failed"] + account["dead"]
    assert account["files"] == len(stdlib.modules()) > 300
    assert (account["failed"], account["dead"], account["processes_left_over"]) == (7, 3, 0)
    assert account["lines"] > 100_000
    kinds = [told["kind"] for told in account["containments"]]
    assert (kinds.count("raised"), kinds.count("child-crashed"), kinds.count("dead")) == (4, 10, 3)
    assert (kinds.count("child-killed"), kinds.count("failed")) == (3, 3)
    causes = [told["cause"] for told in account["containments"] if told["kind"] == "child-recycled"]
    assert causes.count("max_tasks_per_child") >= 2
    befell = {each["what"]: each for each in account["offenders"]}
    assert len(befell) == len(account["offenders"]) == 14
    assert all(each["befell"] for each in befell.values()), befell
    assert all({"task", "task_id", "cause", "at"} <= set(told) for told in account["containments"])
    assert account["seconds"] < 60


def test_without_a_terminal_the_demo_prints_lines(command, node_dir):
    """Piped, it prints plain lines and the account, no control sequence; --keep leaves the folder and names it."""
    process = command("demo", "--keep", "--concurrency", "2")
    out, err = process.communicate(timeout=58)
    assert process.returncode == ExitCode.OK, err
    assert "\x1b" not in out
    assert " done  " in out
    assert "the account balances" in out
    folder = Path(err.removeprefix("kept: ").strip())
    assert {"demo.db", "pool.log"} <= set(os.listdir(folder))
    subprocess.run(["rm", "-r", str(folder)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_cleans_up(command, private_tmp, number):
    """^C, TERM and a closed terminal, even twice, end the pool and remove the folder; nothing_left looks for both."""
    process = command("demo", stderr=subprocess.STDOUT)
    for line in process.stdout:
        if "crash" in line:
            break
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)
    said = process.stdout.read()
    assert process.wait(timeout=20) == 130
    assert "interrupted; processes left over: 0" in said
    assert not list(private_tmp.glob("poolrt-demo-*"))


def test_a_demo_that_nobody_reads_ends(command, private_tmp):
    """A reader that leaves, as ``head -1`` does, ends the pool and the demo at once: no traceback, nothing left."""
    process = command("demo")
    assert process.stdout.readline().startswith("poolrt demo: parse ")
    process.stdout.close()
    assert process.wait(timeout=20) == demo_command.READER_LEFT
    assert process.stderr.read() == ""
    assert not list(private_tmp.glob("poolrt-demo-*"))


SHORT = """
import poolrt.cli.demo.run as demo_run
demo_run.DEADLINE = 0.0
from poolrt.cli.main import main
main()
"""


def short_demo(node_dir: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """``poolrt demo --json`` with its deadline in the past."""
    env = {**os.environ, "POOLRT_RUNTIME_DIR": str(node_dir)}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    arguments = [sys.executable, "-c", SHORT, "demo", "--json"]
    return subprocess.run(arguments, text=True, timeout=50, env=env, check=False, **settings)


def test_an_account_that_nobody_reads_has_its_own_exit_code(node_dir):
    """Whether an account balances does not hang on who reads it, and nothing complains about the closed pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = short_demo(node_dir, stdout=writer)
    finally:
        os.close(writer)
    assert done.returncode == ExitCode.UNBALANCED
    assert "BrokenPipe" not in done.stderr


def test_a_demo_that_does_not_end_says_what_is_missing(node_dir):
    """Past its deadline the demo stops, names what has not ended, exits 9 and still leaves nothing."""
    done = short_demo(node_dir)
    assert done.returncode == ExitCode.UNBALANCED
    account = json.loads(done.stdout)
    assert account["processes_left_over"] == 0
    assert any(problem.startswith("not ended in time: ") for problem in account["problems"])


# ---- the account finds what does not balance


def record(state: TaskState, *, lost: int = 0, cause: str = "") -> Record:
    """A record of a task that ended a second after the epoch."""
    return Record(state, "t", 1.0, lost=lost, error=ErrorInfo("ValueError", cause) if cause else None)


def an_account(**changes: Any) -> Account:
    """A small account that balances, with ``changes``."""
    account: dict[str, Any] = {
        "accepted": [
            Accepted("1", "parse", "a.py", OK),
            Accepted("2", "raise", "[x]", FAILED),
            Accepted("3", "crash", "SIGKILL", DEAD, 2),
        ],
        "records": {"1": record(OK), "2": record(FAILED, cause="[x]"), "3": record(DEAD, lost=2, cause="died")},
        "depth": Depth(0, 0, 0, 1, None),
        "ended": {OK: frozenset("1"), FAILED: frozenset("2"), DEAD: frozenset("3")},
        "events": [crash("3"), crash("3")],
        "sums": {"files": 1, "lines": 10, "nodes": 20, "functions": 2, "classes": 1},
        "left_over": [],
        "seconds": 1.5,
    }
    return Account(**(account | changes))


def crash(task_id: str) -> dict[str, Any]:
    """The event of a child that died while it ran this task."""
    return {
        "kind": "child-crashed", "at": 0.5, "slot": 1, "generation": 1, "task": "crash", "task_id": task_id,
        "cause": "killed by SIGKILL while running crash", "numbers": {"done": 4, "at": "never"},
    }  # fmt: skip


def test_an_account_that_balances():
    """Every accepted task ended as it was meant, every crash was reported, nothing is left: no problem."""
    account = an_account()
    assert account.problems() == []
    told = account.as_json()
    assert [told[name] for name in ("accepted", "succeeded", "failed", "dead")] == [3, 1, 1, 1]


FULL = an_account()
FAULTS = {
    "a task has no record": (
        {"records": {"1": FULL.records["1"], "3": FULL.records["3"]}, "pending": {"2": "reserved"}},
        ["3 were accepted, but 2 succeeded, failed or are dead", "not ended in time: raise#2 (reserved)"],
    ),
    "a task ended otherwise": (
        {"records": {**FULL.records, "2": record(TaskState.EXPIRED)}},
        ["3 were accepted, but 2 succeeded, failed or are dead", "was to end as failed, and is expired"],
    ),
    "the broker still holds a message": ({"depth": Depth(0, 1, 0, 1, None)}, ["the broker still holds 1 messages"]),
    "the broker lists a record we did not see": (
        {"ended": {**FULL.ended, OK: frozenset({"1", "9"})}},
        ["1 records say succeeded, the broker lists 2"],
    ),
    "a task that should work failed": (
        {"records": {**FULL.records, "1": record(FAILED)}},
        ["parse#1 (a.py) was to end as succeeded, and is failed"],
    ),
    "a crash was not reported": ({"events": [crash("3")]}, ["crash#3 lost 2 children, 1 were reported"]),
    "a crash was reported twice": ({"events": [crash("3")] * 3}, ["crash#3 lost 2 children, 3 were reported"]),
    "a bystander was counted as the culprit": (
        {"records": {**FULL.records, "1": record(OK, lost=1)}},
        ["parse#1 lost 1 children, 0 were reported"],
    ),
    "a task that was to crash did not": (
        {"records": {**FULL.records, "3": record(DEAD, lost=1)}, "events": [crash("3")]},
        ["crash#3 lost 1 children, 1 were reported and 2 were meant"],
    ),
    "the pool had to be killed": ({"exit_code": -9}, ["the pool did not stop by itself: its exit code is -9"]),
    "a task ended with another error": (
        {"accepted": [*FULL.accepted[:1], FULL.accepted[1]._replace(error="KeyError"), FULL.accepted[2]]},
        ["raise#2 was to end with KeyError, and ended with ValueError"],
    ),
    "a process is left": ({"left_over": ["77 (sleep 9)"]}, ["1 processes are left over: 77 (sleep 9)"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_account_sees_its_fault(fault):
    """Each way in which an account can fail to balance is found and named."""
    changes, says = FAULTS[fault]
    problems = an_account(**changes).problems()
    assert all(any(text in problem for problem in problems) for text in says), problems


def test_a_child_killed_by_somebody_else_is_accounted_for():
    """Whoever kills a child during the demo sees its task run again and the account balance."""
    account = an_account(records={**FULL.records, "1": record(OK, lost=1)}, events=[crash("3"), crash("3"), crash("1")])
    assert account.problems() == []


def test_numbers_never_replace_a_containment_s_own_keys():
    """Numbers stand beside task and cause in the JSON; one that is named like a key of the event does not hide it."""
    first = an_account().as_json()["containments"][0]
    assert (first["task"], first["at"], first["done"]) == ("crash", 0.5, 4)


def test_a_process_that_is_left_is_found():
    """The count is a real one: a process below this one that was not there before is named with its command."""
    before: set[int] = set()
    with subprocess.Popen(["sleep", "30"]) as process:
        found = left_over("", before)
        process.kill()
    assert any(f"{process.pid} (sleep 30)" in line for line in found)


# ---- what people see


def shown(renderable: Any, width: int = 80) -> str:
    """The renderable as the text of a terminal of this width."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_account_in_words():
    """The account shows each task once with all that befell it, survives markup, and says that it balances."""
    text = shown(account_view(an_account()))
    assert "accepted 3 = succeeded 1 + failed 1 + dead 1" in text
    assert "crashed ×2, dead" in text
    assert "ValueError: [x]" in text
    assert "the account balances" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 120])
def test_the_account_fits_its_terminal(width):
    """In two columns or three, no line is cut or wider than the terminal, and what no offender did stands below."""
    recycled = {"kind": "child-recycled", "at": 0.7, "slot": 2, "generation": 1, "cause": "max_tasks_per_child"}
    blamed = {**recycled, "at": 0.8, "task": "parse", "cause": "max_memory_per_child: 131 MiB"}
    account = an_account(events=[crash("3"), crash("3"), recycled, recycled, blamed])
    text = shown(account_view(account, width), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = " ".join(text.split())
    assert "crash SIGKILL crashed ×2, dead: killed by SIGKILL" in words
    assert "besides recycled ×2: max_tasks_per_child" in words
    assert "parse recycled: max_memory_per_child: 131 MiB" in words


def test_an_account_in_words_that_does_not_balance():
    """What does not balance is said in the last lines."""
    text = shown(account_view(an_account(left_over=["77 (sleep 9)"])))
    assert "balances" not in text.replace("does not balance", "")
    assert text.splitlines()[-1] == "does not balance: 1 processes are left over: 77 (sleep 9)"


def test_befallen_counts():
    """What happened to a task is told in its order, repeated things once."""
    assert befallen([crash("1"), crash("1"), {"kind": "dead"}]) == "crashed ×2, dead"


def progress(ended: int, seconds: float, children: int = 2) -> Progress:
    """A moment of a run of 100 tasks."""
    rows = [
        {"slot": slot, "state": "up", "activity": "run", "task": "parse", "task_id": "1"} for slot in range(children)
    ]
    return Progress(100, ended, seconds, Depth(100 - ended, 0, 0, 0, 1.0), {"children": rows})


@pytest.mark.parametrize(("width", "height", "children"), [(80, 24, 2), (80, 24, 40), (140, 40, 4), (60, 12, 8)])
def test_the_live_view_fits_its_terminal(width, height, children):
    """However many children and containments there are, the view is no taller and no wider than the terminal."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    screen = LiveScreen(console)
    for _ in range(60):
        screen.contained(crash("3"))
    text = shown(screen.view(progress(40, 2.0, children)), width)
    lines = text.splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert "40/100 done" in text
    assert "crashed 60" in text


def test_plain_lines_come_once_a_second_and_at_the_end():
    """A log gets a line a second, not one a refresh; each containment at once; and at last that all is done."""
    console = Console(file=io.StringIO(), width=120, highlight=False)
    screen = PlainScreen(console)
    screen.begin(100, 2)
    for quarter in range(1, 9):
        screen.progress(progress(quarter * 10, quarter / 4))
    screen.contained({"kind": "child-up"})  # no containment
    screen.contained(crash("3"))
    screen.progress(progress(100, 2.1))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 5
    assert "child-crashed" in lines[3]
    assert lines[4].startswith("  2.1s  100/100 done  49/s  crashed 1")


def test_the_rate_is_of_the_last_seconds():
    """The rate forgets what is older than two seconds, and is 0 at the first look."""
    tally = Tally()
    assert tally.rate(progress(0, 0.0)) == 0
    assert tally.rate(progress(100, 1.0)) == 100
    assert tally.rate(progress(100, 2.9)) == 0


# ---- its input


def test_modules_leave_tests_out(tmp_path):
    """Tests, caches and installed packages are no modules of the library; everything else below it is."""
    for name in (
        "a.py",
        "pkg/b.py",
        "pkg/test/c.py",
        "pkg/tests/d.py",
        "site-packages/e.py",
        "x/idle_test/f.py",
        "g.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert stdlib.modules(tmp_path) == [str(tmp_path / "a.py"), str(tmp_path / "pkg/b.py")]


def test_the_usual_concurrency_recycles():
    """Between two children and four: more would end the library before any of them is recycled."""
    assert 2 <= demo_command.usual_concurrency() <= 4
