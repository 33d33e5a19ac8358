"""The state of the view: what keys, answers and looks do to it."""

from __future__ import annotations

import pytest

from poolrt.top.state import Request, Sort, lost, on_key, with_answer, with_status


def press(state, *keys):
    """The state after some keys, and all that was asked for."""
    asked = []
    for key in keys:
        state, requests = on_key(state, key)
        asked += requests
    return state, asked


@pytest.mark.parametrize("key", ["q", "esc"])
def test_q_and_escape_quit(state, key):
    """Both end the view, and ask for nothing."""
    after, asked = press(state(), key)
    assert after.ended
    assert asked == []


def test_an_unknown_key_changes_nothing(state):
    """What has no meaning has no effect."""
    before = state(selected=5)
    assert press(before, "x", "Q", "page", "Z") == (before, [])


def test_s_goes_round_the_columns(state):
    """Each press sorts by the next column, and the last one is followed by the first."""
    sorts = []
    after = state()
    for _ in range(6):
        after, _ = on_key(after, "s")
        sorts.append(after.sort)
    assert sorts == [Sort.RSS, Sort.AGE, Sort.TASKS, Sort.FDS, Sort.SLOT, Sort.RSS]


@pytest.mark.parametrize(
    ("sort", "slots"),
    [
        (Sort.SLOT, [0, 1, 2]), (Sort.RSS, [2, 1, 0]), (Sort.AGE, [1, 0, 2]), (Sort.TASKS, [0, 1, 2]),
        (Sort.FDS, [0, 2, 1]),
    ],
)  # fmt: skip
def test_children_are_sorted(state, child, idle, sort, slots):
    """The largest is first, but slots ascend; what is not known, or no key of this supervisor, counts as nothing."""
    rows = [
        child(2, rss=3000, running_for=None, done=1, fds=5),
        idle(1, rss=2000, running_for=90.0, done=1),
        child(0, rss=None, running_for=4.0, done=8, fds=50),
    ]
    assert [row["slot"] for row in state(sort=sort, children=rows).children] == slots


def test_a_selection_moves_among_the_rows_as_shown(state, child):
    """Up and down follow the order on the screen, and stop at its ends."""
    rows = [child(slot, rss=slot * 1000) for slot in range(4)]
    after = state(children=rows, sort=Sort.RSS)
    assert press(after, "j")[0].selected == 3
    assert press(after, "k")[0].selected == 0
    assert press(after, "down", "down", "j", "k", "up")[0].selected == 3
    assert press(after, "j", "j", "j", "j", "j", "j")[0].selected == 0
    assert press(after, "end")[0].selected == 3
    assert press(after, "j", "end")[0].selected == 0
    assert press(after, "j", "end", "home")[0].selected == 3


def test_nothing_can_be_selected_where_nothing_is(state):
    """Without children a cursor key does nothing."""
    assert press(state(children=[]), "j", "r")[0].selected is None


def test_a_selection_stays_in_its_slot(state, status, child):
    """A child that is replaced stays selected by its slot; one whose slot is gone hands over to the next."""
    before = state(selected=5)
    assert with_status(before, status(children=[child(5, generation=4), child(9)]), {}).selected == 5
    assert with_status(before, status(children=[child(2), child(9)]), {}).selected == 9
    assert with_status(before, status(children=[child(2)]), {}).selected == 2
    assert with_status(before, status(children=[]), {}).selected is None


def test_recycling_a_child_asks_first(state):
    """r names the child and what it runs; only y sends the request, for its slot alone."""
    asked, requests = press(state(selected=5), "r")
    assert requests == []
    assert "child 5 (pid 41205, running reports [paused]" in asked.question.text
    after, requests = press(asked, "y")
    assert requests == [Request("recycle", {"slots": [5]})]
    assert after.question is None


@pytest.mark.parametrize("key", ["n", "q", "esc", " ", "r", "up"])
def test_any_other_key_is_no(state, key):
    """While a question is asked no key but y means anything else than no, not even q."""
    after, requests = press(state(selected=5), "r", key)
    assert requests == []
    assert (after.question, after.ended, after.message) == (None, False, "not recycled")


def test_a_child_that_was_replaced_meanwhile_is_not_recycled(state, status, child):
    """y means the child that was asked about: another one in its slot is left alone, and so is an empty slot."""
    asked, _ = press(state(selected=5), "r")
    for rows in ([child(5, generation=4)], [child(7)], []):
        after, requests = press(with_status(asked, status(children=rows), {}), "y")
        assert requests == []
        assert after.message == "not recycled: that child has left meanwhile"


def test_recycling_needs_a_selection(state):
    """r without a selected child says how to select one."""
    after, requests = press(state(), "r", "y")
    assert requests == []
    assert press(state(), "r")[0].message.startswith("select a child")
    assert after.question is None


def test_recycling_all_asks_first(state):
    """R, then y, names no slots: all of them."""
    assert press(state(), "R", "n")[1] == []
    assert press(state(), "R", "y")[1] == [Request("recycle", {"slots": []})]


def test_each_step_of_scaling_counts(state, status):
    """Pluses that are faster than looks add up, and a look that was asked for before the answer takes none back."""
    after, requests = press(state(concurrency=8), "+", "+", "-", "+")
    assert [request.arguments["n"] for request in requests] == [9, 10, 9, 10]
    after = with_status(after, status(concurrency=8), {})
    assert press(after, "+")[1] == [Request("scale", {"n": 11})]
    for n in (9, 10, 9, 10):
        after = with_answer(after, "scale", {"concurrency": n}, "")
    assert after.message == "scaled to 10 children"
    assert press(after, "+")[1] == [Request("scale", {"n": 11})]
    after = with_status(after, status(concurrency=10), {})
    assert after.scaled_to is None
    assert press(after, "+")[1] == [Request("scale", {"n": 11})]


def test_what_another_one_scaled_is_where_the_next_step_starts(state, status):
    """After our own steps are answered, the node's own number counts."""
    after = with_answer(press(state(concurrency=8), "+")[0], "scale", {"concurrency": 9}, "")
    assert press(with_status(after, status(concurrency=3), {}), "+")[1] == [Request("scale", {"n": 4})]


def test_there_are_never_less_than_no_children(state):
    """Minus at 0 asks for nothing."""
    after, requests = press(state(concurrency=0), "-")
    assert requests == []
    assert "0 children" in after.message


def test_answers_and_refusals_are_told(state):
    """The status line has what the supervisor said; control characters in it are written out."""
    assert with_answer(state(), "recycle", {"recycling": 1}, "").message.startswith("recycling 1 child:")
    assert with_answer(state(), "recycle", {"recycling": 0}, "").message == "nothing to recycle there"
    assert with_answer(state(), "scale", {"concurrency": 1}, "").message == "scaled to 1 child"
    assert with_answer(state(), "scale", None, "the node is \x1b[31mdraining").message == (
        r"refused: the node is \x1b[31mdraining"
    )


def test_a_refused_step_is_not_where_the_next_one_starts(state, status):
    """After a refusal the next look tells the number again."""
    after = with_answer(press(state(concurrency=500), "+")[0], "scale", None, "at most 500")
    after = with_status(after, status(concurrency=500), {})
    assert press(after, "-")[1] == [Request("scale", {"n": 499})]


def test_a_message_goes_with_the_next_key(state):
    """What was said stays until a key is pressed."""
    assert press(with_answer(state(), "scale", {"concurrency": 4}, ""), "j")[0].message == ""


def test_a_frozen_screen_keeps_what_it_shows(state, status):
    """space keeps the picture until space again; what is asked for meanwhile is still answered."""
    frozen, _ = press(state(uptime=1.0), " ")
    later = with_status(frozen, status(uptime=9.0), {})
    assert later.status["uptime"] == 1.0
    assert with_status(press(later, " ")[0], status(uptime=9.0), {}).status["uptime"] == 9.0


def test_help_is_closed_by_any_key(state):
    """? explains; the next key only closes it, also q."""
    shown, _ = press(state(), "?")
    assert shown.help
    after, _ = press(shown, "q")
    assert (after.help, after.ended) == (False, False)


def test_a_lost_node_is_asked_for_nothing(state):
    """While the node is gone actions say so, an open question is dropped, and what was asked is told unanswered."""
    gone = lost(press(state(selected=5), "r")[0], 3.0)
    assert gone.question is None
    for key in "rR+-":
        after, requests = press(gone, key, "y")
        assert requests == []
        assert press(gone, key)[0].message == "nothing was asked: web-1 does not run"
        assert after.question is None
    assert lost(press(state(), "+")[0], 0.0).message == "the node went away before it answered"


def test_a_look_ends_a_loss(state, status):
    """An answer means that the node is there."""
    after = with_status(lost(state(), 9.0), status(), {})
    assert (after.lost_for, after.silent_for) == (None, 0.0)
