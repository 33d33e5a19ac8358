"""The screen, drawn from a state without a terminal."""

from __future__ import annotations

import itertools

import pytest
from rich.cells import cell_len

from poolrt.top.children import COLUMNS, bar, fit, of_most, widths_of, window
from poolrt.top.panels import per_second, sparkline
from poolrt.top.rates import Rate
from poolrt.top.screen import screen
from poolrt.top.state import Question, Request, Sort

SIZES = [(80, 24), (120, 40), (200, 50), (60, 15), (100, 20), (79, 60), (300, 19), (30, 6), (8, 2), (1, 1)]
TASK = "reports [paused].[bold]render[/]"


def drawn(state, width=160, height=50):
    """The screen's text."""
    return "\n".join(line.plain for line in screen(state, width, height))


def titles(state, width, height=40):
    """The columns that are shown."""
    (head,) = [line for line in drawn(state, width, height).splitlines() if line.startswith(" SLOT")]
    return head.split()


def test_the_screen_answers_what_one_looks_for(state):
    """Who the node is, rates, limits, ceilings, the reason of the last recycling, queue and events are there."""
    shown = drawn(state(rates={"done": Rate(103.4, (None, 1.0, 2.0)), "failed": Rate(0.25)}))
    for what in (
        "web-1", "pid 9412", "serving", "up 4m33s", "sqlite:////srv/jobs.db", "memory 2.1/8.0 GiB ███·······",
        " ▅█     103", "failed/s", "0.2", "done 1,204,881  failed 311  recycled 41  crashed 1  killed 0  recalled 12",
        "children: 1 busy, concurrency 2", "14s/1m", "376/500", "459.0/512.0 MiB  █████·",
        "37  memory: 518 MiB > 512 MiB",
        "queued 1,204  delayed 3  reserved 2  dead 2  oldest 4.2s", "child-crashed", "child 5.2", "[SIGSEGV]",
        "q quit", "space freeze",
    ):  # fmt: skip
        assert what in shown, what


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("changes", [{}, {"help": True}, {"selected": 5, "message": "m" * 99}, {"lost_for": 3.0}])
def test_no_screen_is_larger_than_the_terminal(state, child, width, height, changes):
    """At any size no line is too much or too wide, also with wide characters and many children."""
    rows = [child(slot, task="漢字" * 30, replaces="理由" * 20) for slot in range(40)]
    for made in (state(**changes), state(children=rows, node="節" * 50, **changes), state(children=[], **changes)):
        lines = screen(made, width, height)
        assert len(lines) <= height
        assert max(cell_len(line.plain) for line in lines) <= width


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_names_survive_markup_and_escapes(state, child, width, height):
    """Names that are rich markup are shown as they are, and no escape sequence of a name or a note is on the screen."""
    rows = [child(1), child(2, task="\x1b[31mred\x07", replaces="\x1b]0;title\x07", state="\x1b[H")]
    made = state(children=rows, node="n\x1b[5m", message="", queue={"queued": 1}, state="\x1b[1m")
    shown = drawn(made, width, height)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    if width >= 200:
        assert f"{TASK}#…456789ab" in shown
        assert r"\x1b[31mred\x07#" in shown
        assert r"\x1b]0;title\x07" in shown


def test_the_last_line_has_the_keys_and_the_one_above_the_result(state):
    """Messages and questions have their own line above the keys, at every height that has keys."""
    for height in (20, 24, 50):
        lines = [line.plain for line in screen(state(message="scaled to 9 children"), 100, height)]
        assert len(lines) == height
        assert lines[-2].strip() == "scaled to 9 children"
        assert lines[-1].startswith(" q quit")
    asked = state(message="old", question=Question("recycle all children? y/N", Request("recycle", {})))
    assert screen(asked, 100, 24)[-2].plain.strip() == "recycle all children? y/N"


def test_a_small_terminal_has_header_and_children_only(state):
    """Below 80 columns or 20 lines there is no queue, no event and no key; but a question is still asked."""
    for width, height in ((79, 40), (160, 19)):
        shown = drawn(state(), width, height)
        assert "web-1" in shown
        assert "SLOT" in shown
        assert not any(word in shown for word in ("queue", "events", "quit"))
        assert "recycle all" in drawn(state(question=Question("recycle all?", Request("recycle", {}))), width, height)


def test_columns_go_in_the_order_of_their_worth(state):
    """The note goes first, then bar, generation and descriptors; slot, task, age and memory stay to the end."""
    assert titles(state(), 120) == [
        "SLOT", "PID", "GEN", "STATE", "TASK", "AGE/LIMIT", "TASKS", "RSS/CEILING", "FDS", "NOTE",
    ]  # fmt: skip
    assert titles(state(), 110) == ["SLOT", "PID", "GEN", "STATE", "TASK", "AGE/LIMIT", "TASKS", "RSS/CEILING", "FDS"]
    assert titles(state(), 80) == ["SLOT", "PID", "STATE", "TASK", "AGE/LIMIT", "TASKS", "RSS/CEILING"]
    assert titles(state(), 60) == ["SLOT", "TASK", "AGE/LIMIT", "RSS/CEILING"]
    kept = [set(widths_of([], width)) for width in range(220, 20, -1)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))


def test_wide_terminals_show_more_of_task_and_note(state):
    """What is left over is shared by the two texts; numbers keep their place."""
    widths = [widths_of([], width) for width in (130, 200)]
    task, note = (next(i for i, column in enumerate(COLUMNS) if column.title == title) for title in ("TASK", "NOTE"))
    assert widths[1][task] > widths[0][task]
    assert widths[1][note] > widths[0][note]
    assert all(widths[0][i] == widths[1][i] for i in widths[0] if i not in {task, note})


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "14s/1m"),
        ({"soft_time_limit": 30.0}, "14s/(30s)"),
        ({"soft_time_limit": 10.0}, "14s/1m"),
        ({"soft_time_limit": 10.0, "time_limit": None}, "14s/(10s)"),
        ({"time_limit": None}, "14s  "),
        ({"running_for": None}, "–  "),
    ],
)
def test_the_limit_that_comes_next_is_shown(state, child, changes, shown):
    """The soft limit stands beside the age until it has passed; then the hard one does."""
    assert shown in drawn(state(children=[child(1, **changes)]))


@pytest.mark.parametrize(
    ("changes", "style"),
    [({}, "green"), ({"running_for": 50.0}, "yellow"), ({"running_for": 59.0}, "bold red"), ({"time_limit": None}, "")],
)
def test_what_is_near_its_limit_stands_out(state, child, changes, style):
    """An age is green, yellow from 80 % of its limit on, red from 95 %; without a limit it has no colour."""
    row = next(line for line in screen(state(children=[child(1, **changes)]), 160, 30) if "456789ab" in line.plain)
    at = row.plain.index("s/" if changes.get("time_limit", 1) else "14s")
    assert [str(span.style) for span in row.spans if span.start <= at < span.end] == ([style] if style else [])


def test_a_supervisor_that_says_less_can_be_shown(state, idle):
    """Without the newer keys there is a dash, and no ceiling, bar or note."""
    made = state(children=[idle(0)], memory=None, queue=None, last_events=None, steward=None, totals=None)
    shown = drawn(made)
    assert "memory –" in shown
    assert "not known yet" in shown
    assert "none yet" in shown
    assert "20.0 MiB" in shown
    assert "█" not in shown


@pytest.mark.parametrize("height", [10, 24])
def test_an_empty_status_can_be_shown(state, height):
    """A node that only starts, or is of another version, breaks nothing."""
    made = state()
    empty = type(made)(node="web-1", status={})
    assert "no children" in drawn(empty, 100, height)


def test_rows_that_do_not_fit_follow_the_selection(state, child):
    """The selected row is always in sight, and the title says which part is."""
    rows = [child(slot) for slot in range(100)]
    for selected in (0, 3, 50, 98, 99):
        lines = screen(state(children=rows, selected=selected), 120, 24)
        (marked,) = [line for line in lines if line.plain.startswith(">")]
        assert int(marked.plain[1:5]) == selected
        assert marked.style == "reverse"
        assert "of 100, by slot" in "".join(line.plain for line in lines)


def test_children_do_not_push_the_events_out(state, child):
    """With more children than lines, the last three events are still there."""
    events = [{"kind": "warning", "at": 0.0, "cause": f"event-{n}."} for n in range(9)]
    shown = drawn(state(children=[child(slot) for slot in range(100)], last_events=events), 120, 24)
    assert [f"event-{n}." in shown for n in range(9)] == [False] * 6 + [True] * 3
    few = drawn(state(children=[child(1)], last_events=events), 120, 24)
    assert all(f"event-{n}." in few for n in range(9))


def test_leaks_are_a_line_below_the_queue(state):
    """How many kinds in how many tasks, and the last one's reason, cut at the edge; without any there is no line."""
    rows = [
        {"kind": "connections", "task": "a", "what": "x", "last_seen": 5.0, "reason": "9 to db\x1b[31m" + "x" * 300},
        {"kind": "connections", "task": "b", "what": "y", "last_seen": 4.0, "reason": "older"},
        {"kind": "memory", "task": "a", "what": "z", "last_seen": 3.0, "reason": "older"},
    ]
    for width in (80, 120):
        lines = drawn(state(leaks=rows), width, 30).splitlines()
        at = next(i for i, line in enumerate(lines) if "leaks: " in line)
        assert lines[at].startswith(r" leaks: 2 kinds in 2 tasks  last 9 to db\x1b[31m")
        assert len(lines[at]) == width
        assert "queued 1,204" in lines[at - 1]
        assert "child-crashed" in lines[at + 2]
    assert "1 kind in 1 task  last" in drawn(state(leaks=[{"last_seen": None}]))
    assert "leaks" not in drawn(state(leaks=[]))
    assert "leaks" not in drawn(state(leaks=rows), 79, 30)


def test_the_sorted_column_is_marked(state):
    """The head of the column that sorts is bold, and the title names it."""
    lines = screen(state(sort=Sort.RSS), 120, 30)
    head = next(line for line in lines if line.plain.startswith(" SLOT"))
    bold = [head.plain[span.start : span.end].strip() for span in head.spans if "bold" in str(span.style)]
    assert bold == ["RSS/CEILING"]
    assert any(line.plain.endswith("by rss ──") for line in lines)


def test_a_lost_a_silent_and_a_frozen_node_say_so(state):
    """The first line tells why the numbers stand still; the state of a lost node is not claimed."""
    assert "waiting for node … 12s" in drawn(state(lost_for=12.3)).splitlines()[0]
    assert "serving" not in drawn(state(lost_for=12.3))
    assert "no answer for 4.0s" in drawn(state(silent_for=4.0)).splitlines()[0]
    assert "FROZEN" in drawn(state(frozen=True)).splitlines()[0]


def test_help_explains_every_key_and_column(state):
    """The help page fits into 80x24 and names what the footer and the head of the table show."""
    shown = drawn(state(help=True), 80, 24)
    for word in ("q ESC ^C", "↑ ↓ j k", "space", "AGE/LIMIT", "TASKS", "RSS/CEILING", "FDS", "NOTE", "STATE"):
        assert word in shown, word
    assert "…" not in shown
    assert "any key closes this" in shown


# ---- its parts


def test_a_size_and_its_ceiling_share_a_unit():
    """The unit is written once when both have it; without a ceiling there is the size alone."""
    assert of_most(459 << 20, 512 << 20) == "459.0/512.0 MiB"
    assert of_most(459 << 20, 2 << 30) == "459.0 MiB/2.0 GiB"
    assert of_most(459 << 20, None) == "459.0 MiB"
    assert of_most(None, 512 << 20) == "–/512.0 MiB"
    assert of_most(None, None) == "–"


def test_a_bar_is_never_longer_than_full():
    """Over its ceiling a bar is full, and below nothing it is empty."""
    assert [bar(part, 4) for part in (0.0, 0.5, 1.0, 7.0, -1.0)] == ["····", "██··", "████", "████", "····"]
    assert bar(None) == ""


def test_a_line_of_bars_is_scaled_to_its_largest():
    """The largest is full, zero is the lowest, anything above it is more than the lowest, the unknown is blank."""
    assert sparkline([None, 0.0, 0.01, 4.0, 8.0]) == " ▁▂▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([None]) == " "


def test_rates_are_as_exact_as_useful():
    """A tenth below ten, thousands with commas."""
    assert [per_second(rate) for rate in (None, 0.0, 0.24, 9.96, 103.4, 12345.0)] == [
        "–", "0", "0.2", "10", "103", "12,345",
    ]  # fmt: skip


def test_a_cell_is_exactly_as_wide_as_its_column():
    """Short texts are filled, long ones cut where it says; wide characters count double; length costs no time."""
    assert fit("ab", 4) == "ab  "
    assert fit("ab", 4, right=True) == "  ab"
    assert fit("abcdef", 4) == "abc…"
    assert fit("abcdef", 4, end=True) == "…def"
    assert cell_len(fit("漢字漢字", 5)) == 5
    assert cell_len(fit("漢字漢字", 5, end=True)) == 5
    assert fit("x" * 1_000_000 + "end", 4, end=True) == "…end"


def test_the_window_of_rows_holds_the_selected_one():
    """As many rows as there is room for, the selected one among them."""
    assert window(3, 10, None) == range(3)
    assert window(100, 10, None) == range(10)
    for selected in range(100):
        shown = window(100, 10, selected)
        assert selected in shown
        assert len(shown) == 10
