"""Keys: what a terminal sends, also in pieces, becomes names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.top.keys import Keys


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q?+", ["q", "?", "+"]),
        (b" ", [" "]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F", ["page up", "page down", "home", "end"]),
        (b"j\x1b[Ak", ["j", "up", "k"]),
        (b"\x1b[1;5C\x1b[200~s", ["s"]),
        (b"\x1bq", []),
        ("ü漢q".encode(), ["q"]),
        (b"\r\n\x00\x7fr", ["r"]),
    ],
    ids=repr,
)
def test_keys_have_names(data, keys):
    """Printable keys are themselves, cursor keys have names, unknown ones (also Alt-q) are nothing."""
    assert Keys().feed(data) == keys


def test_a_key_may_come_in_pieces():
    """An arrow key of which the ESC came first is still an arrow, not ESC and letters."""
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.waiting
    assert keys.feed(b"[") == []
    assert keys.feed(b"A") == ["up"]
    assert not keys.waiting


def test_a_lone_escape_is_a_key_after_a_pause():
    """ESC alone counts only when nothing follows it; half a sequence then counts as nothing."""
    keys = Keys()
    keys.feed(b"\x1b")
    assert keys.lone() == ["esc"]
    keys.feed(b"\x1b[1;")
    assert keys.lone() == []
    assert keys.feed(b"q") == ["q"]


def test_escape_twice_is_a_key_at_once():
    """The first of two ESC is a key: nothing begins with both."""
    keys = Keys()
    assert keys.feed(b"\x1b\x1b") == ["esc"]
    assert keys.lone() == ["esc"]


@given(st.lists(st.binary(max_size=8), max_size=20))
def test_any_bytes_are_read(chunks):
    """Whatever comes, nothing is kept for long and every name is a key's."""
    keys = Keys()
    names = [name for chunk in chunks for name in [*keys.feed(chunk), *([] if keys.waiting else keys.lone())]]
    assert len(keys._rest) <= 32
    known = {"esc", "up", "down", "page up", "page down", "home", "end"}
    assert all(len(name) == 1 or name in known for name in names)


@given(st.lists(st.sampled_from([b"q", b"\x1b[A", b"\x1bOB", b"\x1b[6~", b"j"]), max_size=10), st.data())
def test_where_the_chunks_end_does_not_matter(pressed, data):
    """The same bytes give the same keys however they are cut."""
    whole = b"".join(pressed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    keys, found = Keys(), []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += keys.feed(whole[begin:end])
    assert found == Keys().feed(whole)
