"""Where the demo is shown while it runs: a live view on a terminal, plain lines elsewhere, nothing for ``--json``."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poolrt.cli.demo.account import CONTAINED
from poolrt.cli.demo.run import Progress, ReaderLeft
from poolrt.cli.pool_view import children_table, event_text, queue_line, size

LINE_EVERY: Final = 1.0
"""Seconds between two progress lines where there is no terminal."""
RATE_OVER: Final = 2.0
"""Seconds over which the shown rate is averaged."""
TOLD_BY_RECORDS: Final = frozenset({"raised", "dead", "cancelled", "expired"})


def is_containment(event: Mapping[str, Any]) -> bool:
    """Whether an event is one the account lists."""
    return event.get("kind") in CONTAINED or event.get("kind") in TOLD_BY_RECORDS


class Tally:
    """What both screens count: the rate of the last seconds, and containments by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, now: Progress) -> float:
        """Tasks a second, over the last seconds."""
        self._seen.append((now.seconds, now.ended))
        while now.seconds - self._seen[0][0] > RATE_OVER:
            self._seen.popleft()
        since, had = self._seen[0]
        return (now.ended - had) / (now.seconds - since) if now.seconds > since else 0.0

    def line(self) -> str:
        """``raised 3  dead 2  crashed 7  recycled 6``, what did not happen left out."""
        return "  ".join(f"{kind.removeprefix('child-')} {count}" for kind, count in sorted(self.kinds.items()))


def is_read(print_it: Callable[[], object]) -> bool:
    """Print; whether anybody reads it. When nobody does, what follows goes to nowhere: no flush at the exit fails."""
    try:
        print_it()
    except (BrokenPipeError, SystemExit):  # SystemExit: what rich 13.8 and later make of it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return False
    return True


class SilentScreen:
    """Shows nothing: stdout belongs to one JSON object."""

    def begin(self, modules: int, concurrency: int) -> None:
        """Nothing."""

    def progress(self, now: Progress) -> None:
        """Nothing."""

    def contained(self, event: Mapping[str, Any]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class PlainScreen:
    """A line a second and one for each containment, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = Tally()
        self._lock = threading.Lock()  # the witness's thread prints too
        self._printed = 0.0
        self._is_read = True

    def begin(self, modules: int, concurrency: int) -> None:
        """Say what is about to happen."""
        self._print(title(modules, concurrency))
        self._raise_if_unread()

    def progress(self, now: Progress) -> None:
        """Print a line if the last one is a second old, or everything has ended."""
        rate = self._tally.rate(now)
        self._raise_if_unread()
        if now.seconds - self._printed < LINE_EVERY and now.ended < now.accepted:
            return
        self._printed = now.seconds
        line = f"{now.seconds:5.1f}s  {now.ended}/{now.accepted} done  {rate:.0f}/s  {self._tally.line()}"
        self._print(Text(line.rstrip()))
        self._raise_if_unread()

    def contained(self, event: Mapping[str, Any]) -> None:
        """Print the containment."""
        if is_containment(event):
            self._tally.kinds[str(event["kind"])] += 1
            self._print(event_text(event))

    def _print(self, text: Text) -> None:
        with self._lock:
            self._is_read = self._is_read and is_read(lambda: self._console.print(text))

    def _raise_if_unread(self) -> None:
        if not self._is_read:
            raise ReaderLeft

    def end(self) -> None:
        """Nothing to undo."""


class LiveScreen:
    """The pool, redrawn four times a second, no taller than the terminal; it vanishes for the account."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._tally = Tally()
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=50)
        self._title = Text()

    def begin(self, modules: int, concurrency: int) -> None:
        """Show the title while the pool starts."""
        self._title = title(modules, concurrency)
        self._live.start()
        self._live.update(Group(self._title, Text("starting the pool", style="dim")), refresh=True)

    def progress(self, now: Progress) -> None:
        """Draw."""
        self._live.update(self.view(now), refresh=True)

    def contained(self, event: Mapping[str, Any]) -> None:
        """Keep it for the next drawing."""
        if is_containment(event):
            self._tally.kinds[str(event["kind"])] += 1
            self._recent.append(event)

    def end(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def view(self, now: Progress) -> RenderableType:
        """One screenful: progress, children, and as many containments as there is room for."""
        width, height = self._console.size
        rate = self._tally.rate(now)
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(
            ProgressBar(total=now.accepted, completed=now.ended, width=max(min(width - 40, 60), 10)),
            Text(f"{now.ended}/{now.accepted} done", style="bold"),
            Text(f"{rate:.0f}/s"),
            Text(f"{now.seconds:.0f} s", style="dim"),
        )
        status = now.status
        head: list[RenderableType] = [
            self._title,
            bar,
            queue_line(now.waiting._asdict()),
            Text(self._tally.line() or "nothing to contain yet", style="yellow" if self._tally.kinds else "dim"),
            self._processes(status),
            Text(),
        ]
        children = list(status.get("children") or ())
        rows = max(min(len(children), height - len(head) - 6), 1)
        room = max(height - len(head) - rows - 4, 0)
        recent = list(self._recent)[-room:] if room else []
        told = [event_text(event) for event in recent]
        for line in (*head, *told):
            if isinstance(line, Text):
                line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*head, children_table(children[:rows], width), Text(), *told)

    def _processes(self, status: Mapping[str, Any]) -> Text:
        shown = [
            f"{role} {size((status.get(role) or {}).get('rss'))}" for role in ("supervisor", "template", "steward")
        ]
        return Text("  ".join(shown), style="dim")


def title(modules: int, concurrency: int) -> Text:
    """What the demo does, in a line."""
    return Text(
        f"poolrt demo: parse {modules} modules of Python {platform.python_version()} with {concurrency} children",
        style="bold",
    )
