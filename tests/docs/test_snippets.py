"""Runs every fenced snippet of README.md and docs/, a page at a time, as its reader would: in one folder, from the top.

What a snippet becomes is told by its language and by an HTML comment right above it:

    <!-- file: tasks.py -->   saved under this name before anything runs
    python                    (without a name) run as a script; it must exit 0
    sh                        run by bash; each line must succeed
    console                   each "$ command" run by bash, what stands below it compared with what it printed
    <!-- run: node -->        console: the one command stays on; what stands below is how its output begins
    <!-- run: signal -->      console: "^C" sends SIGINT to that node; the rest must follow in its output
    <!-- run: ended N -->     console: the node has ended with exit code N
    <!-- run: log -->         text: lines that the node prints, sooner or later
    <!-- run: unit -->        a systemd unit: its ExecStart stays on, with its Environment
    <!-- run: container -->   a Dockerfile: its CMD stays on
    pycon                     a session in a __main__ without a file, as in a notebook
    json, toml                parsed
    text, or no language      a drawing

A node that is on when the page ends, or when the next one starts, gets TERM and must exit 0. Times, ids, pids, sizes
and durations are compared by their shape; ``...`` stands for anything. ``redis://localhost:6379`` is the page's own.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from poolrt import control
from tests.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATIENCE = 20.0

INSTALL = "it installs the clone; .ci/run executes it on a fresh environment"
DEVELOP = "it runs this very suite, or installs its tools; .ci/run and nox.options.sessions execute its commands"
EXEMPT = {
    ("README.md", "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/poolrt demo"): INSTALL,
    ("README.md", ".venv/bin/pip install '.[test]' && .venv/bin/pytest"): INSTALL,
    ("docs/index.md", "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/poolrt demo"): INSTALL,
    ("docs/CONTRIBUTING.md", "python3 -m venv .venv"): DEVELOP,
    ("docs/CONTRIBUTING.md", "pytest  "): DEVELOP,
}
"""Page and how the snippet begins: the reason why it is not executed here."""

PLACES = {"/home/you/shop": "", "/srv/shop/.venv/bin/": "", "/srv/shop": "", "/run/poolrt": "/run"}
"""Paths that the pages use, and what they are in the page's folder; a command of the virtual environment is on PATH."""

REDIS = "localhost:6379"
"""Where the pages have their server."""

SHAPES = [
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "ID"),
    (r"#…[0-9a-f]{8}", "#ID"),
    (r"(tasks[.\w]*-app)@[\w.-]+", r"\1@HOST"),
    (r"\b(age|runtime|boot_seconds|import_seconds|backoff)=[\d.e-]+", r"\1=N"),
    (r"\b(pid|supervisor|template|steward) \d+", r"\1 N"),
    (r"\b[\d.]+ ([KMG]iB|B)\b", "SIZE"),
    (r"\b(ran|up|oldest) [\d.]+ ?s\b", r"\1 N s"),
    (r"\s+", " "),
]

IN_A_TERMINAL = """
import os, pty, sys
status = pty.spawn(sys.argv[1:], lambda terminal: os.read(terminal, 65536), lambda stdin: b"q")
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command that needs a terminal in one of its own, at which somebody leans on q."""

SESSION = """
import doctest, sys
for example in doctest.DocTestParser().get_examples(open(sys.argv[1]).read()):
    lines = example.source.splitlines()
    print(">>> " + "\\n... ".join(lines) + ("\\n..." if len(lines) > 1 else ""), flush=True)
    exec(compile(example.source, "<session>", "single"), globals())
"""


class Snippet(NamedTuple):
    """One fenced block."""

    line: int
    language: str
    body: str
    file: str
    run: str


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page, with the comments right above each."""
    told: dict[str, str] = {}
    body: list[str] | None = None
    language, start = "", 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if body is not None:
            if line.rstrip() == "```":
                yield Snippet(start, language, "\n".join(body), told.get("file", ""), told.get("run", ""))
                body, told = None, {}
            else:
                body.append(line)
        elif line.startswith("```"):
            body, language, start = [], line[3:].strip(), number
        elif comment := re.fullmatch(r"<!-- (file|run): (.+) -->", line):
            told[comment[1]] = comment[2]
        elif line.strip():
            told = {}
    assert body is None, f"{page}:{start}: the fence is never closed"


def shape(text: str) -> str:
    """``text`` with what differs from run to run replaced by its kind."""
    for pattern, kind in SHAPES:
        text = re.sub(pattern, kind, text)
    return text.strip()


def expected(text: str) -> str:
    """The pattern that ``text`` of a page is for the shape of an output."""
    return r".*?".join(re.escape(shape(part)).replace(r"\ ", " ?") for part in text.split("..."))


class Reader:
    """Does what a page says, in ``folder``. Invariant: at most one node is on."""

    def __init__(self, page: Path, folder: Path, servers: Servers) -> None:
        self._page = page
        kept = {"appendonly": "yes"} if f"redis://{REDIS}" in page.read_text() else {}
        self._redis = f"127.0.0.1:{servers.server(**kept).port}" if kept else REDIS
        self._folder = folder
        self._log = folder / "node.log"
        self._node: subprocess.Popen[bytes] | None = None
        commands = folder / ".bin"
        commands.mkdir()
        for name, command in {"python": "", "python3": "", "poolrt": " -m poolrt"}.items():
            (commands / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{command} "$@"\n')
            (commands / name).chmod(0o700)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("POOLRT_")}
        self._env = inherited | {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error,ignore::ResourceWarning",  # a template holds its sockets to its end
            "POOLRT_RUNTIME_DIR": str(folder / "run"),
            "POOLRT_STRICT": "1",
            "COLUMNS": "120",
        }

    def read(self) -> None:
        """Execute the page."""
        found = list(snippets(self._page))
        for each in found:
            if each.file:
                self._save(each)
        for each in found:
            try:
                self._execute(each)
            except Exception as error:
                error.add_note(f"{self._page.relative_to(ROOT)}:{each.line}: ```{each.language}")
                raise
        self.end(0)

    def _save(self, snippet: Snippet) -> None:
        path = self._folder / snippet.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(snippet.body.replace(REDIS, self._redis) + "\n")

    def _execute(self, snippet: Snippet) -> None:
        if self._is_exempt(snippet):
            return
        if snippet.file:
            self._save(snippet)
        nodes = {
            "node": self._console_node, "signal": self._signal, "log": self._wait_for_log,
            "unit": self._unit, "container": self._container,
        }  # fmt: skip
        run, _, argument = snippet.run.partition(" ")
        if run == "ended":
            self._ended(snippet.body, int(argument))
        elif run:
            nodes[run](snippet.body)
        else:
            self._execute_alone(snippet)

    def _execute_alone(self, snippet: Snippet) -> None:
        """A snippet that is over when the next one starts."""
        if snippet.language == "console":
            for command, output in commands_of(snippet.body):
                self._compare(output, self._bash(command))
        elif snippet.language in {"sh", "bash"}:
            self._bash(snippet.body, "-euc")
        elif snippet.language == "python" and not snippet.file:
            (self._folder / "snippet.py").write_text(snippet.body + "\n")
            self._bash("python snippet.py")
        elif snippet.language == "pycon":
            (self._folder / "session.txt").write_text(snippet.body + "\n")
            (self._folder / ".session.py").write_text(SESSION)
            self._compare(snippet.body, self._bash('python -c "$(cat .session.py)" session.txt'))
        elif snippet.language in {"json", "toml"}:
            {"json": json.loads, "toml": tomllib.loads}[snippet.language](snippet.body)
        else:
            assert snippet.file or snippet.language in {"", "text"}, f"nothing executes {snippet.language!r}"

    def _is_exempt(self, snippet: Snippet) -> bool:
        page = str(self._page.relative_to(ROOT))
        return any(page == where and snippet.body.startswith(text) for where, text in EXEMPT)

    # ---- commands

    def _here(self, text: str) -> str:
        for path, place in PLACES.items():
            text = text.replace(path, f"{self._folder}{place}" if not path.endswith("/bin/") else "")
        return text.replace(REDIS, self._redis)

    def _bash(self, command: str, options: str = "-uc") -> str:
        done = subprocess.run(
            ["bash", options, self._here(command)], cwd=self._folder, env=self._env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=50, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command!r} exited {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _compare(self, said: str, printed: str) -> None:
        pattern = expected(self._here(said))
        assert re.fullmatch(pattern, shape(printed)), f"the page says\n{said}\nbut it printed\n{printed}"

    # ---- nodes

    def _start(self, command: str, **env: str) -> None:
        self.end(0)
        before = set(control.nodes())
        with self._log.open("wb") as log:
            self._node = subprocess.Popen(
                shlex.split(self._here(command)), cwd=self._folder, env=self._env | env, process_group=0,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not (started := set(control.nodes()) - before):
            assert self._node.poll() is None, f"{command!r} ended:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"{command!r} does not listen:\n{self._log.read_text()}"
            time.sleep(0.01)
        with control.ControlClient.connect(started.pop()) as client:
            client.call("ready", timeout=PATIENCE)

    def end(self, code: int) -> None:
        """Stop the node if one is on; it must exit with ``code``."""
        node, self._node = self._node, None
        if node is None:
            return
        if node.poll() is None:
            node.terminate()
        try:
            assert node.wait(PATIENCE) == code, f"the node exited {node.returncode}:\n{self._log.read_text()}"
        finally:
            node.kill()
            node.wait()

    def leave(self) -> None:
        """Stop a node that a failed page left on, whatever it exits with."""
        if self._node is not None:
            self._node.terminate()
            self._node.wait(PATIENCE)

    def _console_node(self, body: str) -> None:
        ((command, output),) = commands_of(body)
        self._start(command)
        self._wait_for(lambda: re.match(expected(self._here(output)), self._printed()), output)

    def _unit(self, body: str) -> None:
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[method-assign,assignment]  # systemd's names keep their case
        unit.read_string(self._here(body))
        service = unit["Service"]
        name, _, value = service["Environment"].partition("=")
        self._start(service["ExecStart"], **{name: value})

    def _container(self, body: str) -> None:
        (command,) = re.findall(r"^CMD (\[.*\])$", body, re.MULTILINE)
        self._start(shlex.join(json.loads(command)))

    def try_out(self, command: str) -> None:
        """Run one line of the command reference: a node is started and ended, all else must exit 0."""
        if " serve " in f" {command} ":
            self._start(f"env {command}")
            self.end(0)
        else:
            self._bash(command)

    def keep_on(self, command: str) -> None:
        """Start a node for the lines that follow, if none is on."""
        if self._node is None:
            self._start(command)

    def _signal(self, body: str) -> None:
        assert self._node is not None
        first, _, output = body.partition("\n")
        assert first == "^C"
        time.sleep(0.3)  # two signals within 0.2 s are one wish: what is waited for here is a person
        self._node.send_signal(signal.SIGINT)
        self._wait_for_log(output)

    def _ended(self, body: str, code: int) -> None:
        ((_, output),) = commands_of(body)
        assert output.splitlines()[-1] == f"exit code {code}"
        assert self._node is not None
        self._node.wait(PATIENCE)
        self.end(code)

    def _wait_for_log(self, body: str) -> None:
        self._wait_for(lambda: re.search(expected(self._here(body)), self._printed()), body)

    def _printed(self) -> str:
        return shape(self._log.read_text())

    def _wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"the page says\n{what}\nbut the node printed\n{self._log.read_text()}"
            time.sleep(0.01)


def commands_of(body: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output below it."""
    found: list[tuple[str, str]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]
            found[-1] = command, output + line + "\n"
    return found


@pytest.fixture
def reader(node_dir: Path, monkeypatch: pytest.MonkeyPatch, own_servers: Servers) -> Iterator[Callable[[Path], Reader]]:
    """``reader(page)``: someone who reads it in a folder of this test; whatever is on in the end is stopped."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    made: list[Reader] = []

    def make(page: Path) -> Reader:
        made.append(Reader(page, node_dir.resolve(), own_servers))
        return made[-1]

    yield make
    for each in made:
        each.leave()


RUN = [page for page in PAGES if any(True for _ in snippets(page)) and page.parent.name != "reference"]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_snippet_of_a_page_does_what_the_page_says(page: Path, reader: Callable[[Path], Reader]) -> None:
    """Every snippet of the page runs from its top, and prints what the page says it prints."""
    reader(page).read()


APP = """
from poolrt import App

app = App("proj", broker="sqlite:///proj.db")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def resize(name: str, width: int) -> None:
    pass
"""


@pytest.mark.timeout(240)  # each example is a command of its own
def test_every_example_of_the_command_reference_works(reader: Callable[[Path], Reader], node_dir: Path) -> None:
    """Each example of the generated docs/reference/cli.md exits 0, with an app at the place that it names."""
    page = ROOT / "docs" / "reference" / "cli.md"
    app = node_dir / "proj" / "tasks.py"
    app.parent.mkdir()
    app.write_text(APP)
    examples = [line for each in snippets(page) if each.language == "sh" for line in each.body.splitlines()]
    commands = [line for line in examples if not line.startswith("#")]
    assert commands
    someone = reader(page)
    for command in commands:
        if command == "poolrt demo" or command.startswith("poolrt dead show"):
            continue  # the same run as its --json, which is here; a task of that id: see how-to/read-a-crash-report.md
        if command.startswith(("poolrt status", "poolrt top", "poolrt leaks", "poolrt enqueue")):
            someone.keep_on("poolrt serve proj.tasks:app --node-name web-1")
        in_a_terminal = f"{sys.executable} -c '{IN_A_TERMINAL}' " if command.startswith("poolrt top") else ""
        someone.try_out(in_a_terminal + command)
    someone.end(0)


def test_the_other_reference_pages_have_nothing_to_execute() -> None:
    """A generated page that gains a snippet needs a reader: only the command reference has one."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    assert [page.name for page in pages if any(each.language for each in snippets(page))] == ["cli.md"]


@pytest.mark.parametrize(("page", "text"), EXEMPT, ids=lambda part: part.split(" ")[0])
def test_what_is_exempt_is_still_there(page: str, text: str) -> None:
    """Each exemption names a snippet that its page has, so that none outlives its reason."""
    assert any(snippet.body.startswith(text) for snippet in snippets(ROOT / page))
