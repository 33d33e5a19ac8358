"""Codecs: what JSON carries comes back equal, and everything else is pickled by trusted ones or refused by name."""

from __future__ import annotations

import datetime as dt
import enum
import os
import pickle
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.codec import JSON, MAX_DEPTH, PICKLE, decode, encode_arguments, encode_value, unpickle
from poolrt.errors import DecodingError, EncodingError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=5) | st.dates(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


class Colour(enum.StrEnum):
    RED = "red"


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


def as_lists(value: Any) -> Any:
    """``value`` with its tuples as lists: the one thing JSON changes."""
    if isinstance(value, (list, tuple)):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value


def same(one: Any, other: Any) -> bool:
    """Equal, also in type, in the sign of zero, and inside."""
    return repr(one) == repr(other)


@given(PLAIN)
def test_plain_values_go_by_json_and_come_back_equal(value: Any) -> None:
    """None, bools, 64-bit ints, finite floats, text, lists, str-keyed dicts go by JSON, unchanged but for tuples."""
    codec, encoded = encode_value(value, trusted=False, task="t")
    assert codec == JSON
    assert same(decode(codec, encoded, trusted=False), as_lists(value))


@given(ANYTHING)
def test_whatever_json_accepts_comes_back_equal(value: Any) -> None:
    """An untrusted broker carries a value exactly, or refuses it with an EncodingError: it never changes one."""
    try:
        codec, encoded = encode_value(value, trusted=False, task="t")
    except EncodingError:
        return
    assert same(decode(codec, encoded, trusted=False), as_lists(value))


@given(ANYTHING)
def test_trusted_brokers_carry_all_of_it(value: Any) -> None:
    """Over a trusted broker every value comes back, by JSON if that is exact and by cloudpickle if not."""
    codec, encoded = encode_value(value, trusted=True, task="t")
    assert codec in {JSON, PICKLE}
    assert same(decode(codec, encoded, trusted=True), as_lists(value) if codec == JSON else value)


@given(st.lists(PLAIN, max_size=3), st.dictionaries(TEXT, PLAIN, max_size=3))
def test_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    """A call's positional and keyword arguments survive the way to the worker."""
    codec, payload = encode_arguments(args, kwargs, trusted=False, task="t")
    assert same(decode(codec, payload, trusted=False), [as_lists(args), as_lists(kwargs)])


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "the float nan"),
        (float("-inf"), "the float -inf"),
        (2**64, "an int beyond 64 bits"),
        (-(2**63) - 1, "an int beyond 64 bits"),
        ("\ud800", "a str with a lone surrogate"),
        ({1: 2}, "a dict key of type int"),
        ({None: 2}, "a dict key of type NoneType"),
        ({Text("a"): 1}, "a dict key of type Text"),
        (b"bytes", "a value of type builtins.bytes"),
        ({1, 2}, "a value of type builtins.set"),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "a value of type datetime.datetime"),
        (Colour.RED, "a value of type .*Colour"),
        (Text("x"), "a value of type .*Text"),
        (Point(1), "a value of type .*Point"),
        (OrderedDict(a=1), "a value of type collections.OrderedDict"),
        (CYCLE, f"a value nested deeper than {MAX_DEPTH}"),
        ([[{"deep": object()}]], "a value of type builtins.object"),
    ],
)
def test_other_values_are_refused_by_type(value: Any, named: str) -> None:
    """An untrusted broker refuses what JSON would change; the error names the task and the type, never the value."""
    with pytest.raises(EncodingError, match=f"a call of shop.add holds {named}.*which JSON does not carry"):
        encode_arguments((1, value), {}, trusted=False, task="shop.add")
    with pytest.raises(EncodingError, match=f"a call of shop.add holds {named}"):
        encode_arguments((), {"key": value}, trusted=False, task="shop.add")
    with pytest.raises(EncodingError, match=f"the result of shop.add holds {named}"):
        encode_value(value, trusted=False, task="shop.add")


def test_a_secret_does_not_reach_the_error() -> None:
    """The error about a value that cannot be carried does not quote it."""
    with pytest.raises(EncodingError) as error:
        encode_arguments((b"SECRET",), {}, trusted=False, task="t")
    assert "SECRET" not in str(error.value)


def test_depth_is_bounded() -> None:
    """JSON takes 64 levels; a 65th goes by cloudpickle."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert encode_value(value, trusted=False, task="t")[0] == JSON
    assert encode_value([value], trusted=True, task="t")[0] == PICKLE


def test_functions_go_by_value() -> None:
    """Lambdas and closures are carried over a trusted broker."""
    codec, payload = encode_arguments((lambda x: x + len(sys.argv) * 0 + 1,), {}, trusted=True, task="t")
    assert codec == PICKLE
    ((function,), _) = decode(codec, payload, trusted=True)
    assert function(1) == 2


def test_what_cannot_be_pickled_is_an_encoding_error() -> None:
    """A lock, or an object whose own code refuses, gives an EncodingError that says which task and why."""

    class Stubborn:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError("no")

    with pytest.raises(EncodingError, match="the result of t cannot be pickled: ZeroDivisionError: no"):
        encode_value(Stubborn(), trusted=True, task="t")
    with pytest.raises(EncodingError, match="a call of t cannot be pickled: TypeError"):
        encode_arguments((threading.Lock(),), {}, trusted=True, task="t")


class Canary:
    """Unpickling it makes a folder: the proof that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Where the canary's folder would be."""
    return tmp_path / "it-was-unpickled"


def test_the_canary_works(canary: Path) -> None:
    """Unpickling the canary leaves its trace: without this the tests below would prove nothing."""
    decode(PICKLE, pickle.dumps(Canary(canary)), trusted=True)
    assert canary.exists()


@pytest.mark.parametrize("codec", ["cloudpickle:3.99", "cloudpickle:2.7", "cloudpickle:", f"{PICKLE} "])
def test_another_minors_pickle_is_never_unpickled(codec: str, canary: Path) -> None:
    """Bytes pickled by another Python minor are refused by name without touching them."""
    with pytest.raises(DecodingError, match=f"pickled by Python .*, this is 3.{sys.version_info[1]}: never unpickled"):
        decode(codec, pickle.dumps(Canary(canary)), trusted=True)
    assert not canary.exists()


def test_untrusted_pickles_are_never_unpickled(canary: Path) -> None:
    """Where the sender is not trusted, no pickle is touched."""
    with pytest.raises(DecodingError, match="not trusted: never unpickled"):
        decode(PICKLE, pickle.dumps(Canary(canary)), trusted=False)
    assert not canary.exists()


@pytest.mark.parametrize("codec", ["", "yaml", "pickle", "JSON"])
def test_unknown_codecs_are_refused(codec: str, canary: Path) -> None:
    """A codec this release does not know is refused by name."""
    with pytest.raises(DecodingError, match=f"unknown codec '{codec}'"):
        decode(codec, pickle.dumps(Canary(canary)), trusted=True)
    assert not canary.exists()


@pytest.mark.parametrize(
    "damaged", [b"", b"[1", b"\xff", b'"\xff"', b"nan", b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000]
)
def test_damaged_json_is_a_decoding_error(damaged: bytes) -> None:
    """Bytes that are no JSON, or too deep to read, give a DecodingError."""
    with pytest.raises(DecodingError, match="damaged JSON"):
        decode(JSON, damaged, trusted=False)


@given(st.binary())
def test_random_json_never_raises_anything_else(noise: bytes) -> None:
    """Whatever the payload, reading it gives a value or a DecodingError."""
    try:
        decode(JSON, noise, trusted=False)
    except DecodingError:
        pass


@pytest.mark.parametrize("damaged", [b"", b"\x80", b"\x80\x05cno_such_module\nname\n.", pickle.dumps([1, 2])[:-3]])
def test_damaged_pickles_are_decoding_errors(damaged: bytes) -> None:
    """A cut pickle, or one whose class is not here, gives a DecodingError that says so."""
    with pytest.raises(DecodingError, match="cannot be unpickled here"):
        unpickle(damaged)
