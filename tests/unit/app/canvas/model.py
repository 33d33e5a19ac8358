"""What a canvas comes to, in plain Python: its result, which calls run, which errbacks. And canvases to try."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import strategies as st

from poolrt.app.app import App
from poolrt.app.canvas.results import GroupResult, Result
from poolrt.app.canvas.signature import Call, Signature, chain, chord, group
from poolrt.states import TaskState


class Failed(Exception):
    """In the place of a value."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failed)

    __hash__ = None  # type: ignore[assignment]


FAILED = Failed()


class Labels:
    """Makes calls that can be told apart, and knows which of them fail."""

    def __init__(self, app: App) -> None:
        self.failing: set[str] = set()
        self._names = (f"c{number}" for number in itertools.count())

        @app.task(name="call")
        def call(*args: Any) -> Any:
            label = args[-1]
            if label in self.failing:
                raise ValueError(label)
            return [label, *map(shown, args[:-1])]

        @app.task(name="errback")
        def errback(task_id: str, label: str) -> None:
            """Is told that something failed."""

        call.by_value = errback.by_value = False  # they run here
        self.task = call
        self.errback_task = errback

    def call(self, *, immutable: bool, fails: bool) -> Call[Any]:
        """A call with a label of its own."""
        label = next(self._names)
        if fails:
            self.failing.add(label)
        return Call(self.task, (label,), immutable=immutable)

    def errback(self) -> Call[Any]:
        """An errback with a label of its own."""
        return Call(self.errback_task, (next(self._names),))


class Expected:
    """What a canvas comes to while these labels fail."""

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        self.errbacks: Counter[str] = Counter()

    def of(self, canvas: Signature[Any], *value: Any, is_member: bool = False, is_joined: bool = False) -> Any:
        """Its result, given the value before it if there is any.

        ``is_member``: of a group with a body; ``is_joined``: the group that it is, or ends with, has a body.
        """
        if isinstance(canvas, Call):
            result = self._call(canvas, value)
        elif isinstance(canvas, chain):
            result = self._chain(canvas, value, is_joined=is_joined or is_member)
        elif isinstance(canvas, group):
            result = [self.of(member, *value, is_member=is_joined) for member in canvas.members]
        else:
            assert isinstance(canvas, chord)
            header = self.of(canvas.header, *value, is_joined=True)
            result = self._body(canvas, header, is_joined=is_joined or is_member)
        if has_failed(result):
            for errback in canvas.errbacks:
                # Each member of a group at its end is an end of it, but where these are collected as one result.
                self.errbacks[label_of(errback)] += 1 if is_member else failures_in(result)
        elif canvas.links:
            for link in canvas.links:
                self.of(link, result)
        return result

    def _call(self, call: Call[Any], value: tuple[Any, ...]) -> Any:
        label = call.args[-1]
        if label in self.failing:
            self.failed.add(label)
            return FAILED
        self.succeeded.add(label)
        return [label, *(() if call.immutable else value), *call.args[:-1]]

    def _chain(self, canvas: chain[Any], value: tuple[Any, ...], *, is_joined: bool) -> Any:
        result: Any = None
        for number, step in enumerate(canvas.steps):
            if number and has_failed(result):
                if ends_in_group(canvas.steps[number - 1]) and result != FAILED:  # its members were called
                    self.errbacks.update(of_a_body(step))
                return FAILED
            is_last = number + 1 == len(canvas.steps)
            result = self.of(step, *(value if number == 0 else (result,)), is_joined=is_joined or not is_last)
        return result

    def _body(self, canvas: chord[Any], results: list[Any], *, is_joined: bool) -> Any:
        if has_failed(results):
            if not canvas.collect_errors:
                self.errbacks.update(of_a_body(canvas.body))
                return FAILED
            results = ["error" if has_failed(each) else each for each in results]
        return self.of(canvas.body, results, is_joined=is_joined)


def of_a_body(canvas: Signature[Any]) -> set[str]:
    """The errbacks that are called if the group before it fails."""
    first = canvas.steps[0] if isinstance(canvas, chain) else None
    own = set(map(label_of, canvas.errbacks))
    return (set() if isinstance(canvas, group) else own) | (set() if first is None else of_a_body(first))


def shown(value: Any) -> Any:
    """The value with a word in the place of each exception, as JSON carries it."""
    if isinstance(value, list):
        return [shown(each) for each in value]
    return "error" if isinstance(value, Exception) else value


def label_of(call: Signature[Any]) -> str:
    """What it can be told by."""
    assert isinstance(call, Call)
    return str(call.args[-1])


def failures_in(result: Any) -> int:
    """How many of its ends have no value."""
    return sum(map(failures_in, result)) if isinstance(result, list) else int(result == FAILED)


def has_failed(result: Any) -> bool:
    """Whether it, or a part of it, is no value."""
    return result == FAILED or (isinstance(result, list) and any(map(has_failed, result)))


def outcome(result: Result) -> Any:
    """What a workflow has come to, of the same shape as ``Expected.of``."""
    if isinstance(result, GroupResult):
        if result.parent is not None and has_failed(outcome(result.parent)):
            return FAILED
        return [outcome(each) for each in result]
    state = result.state
    assert state in {TaskState.SUCCEEDED, TaskState.FAILED}, f"{result.id} is {state}"
    return result.get(timeout=0) if state is TaskState.SUCCEEDED else FAILED


def canvases(labels: Labels) -> st.SearchStrategy[Signature[Any]]:
    """Canvases up to four levels deep."""
    calls = st.builds(
        lambda immutable, fails: labels.call(immutable=immutable, fails=fails),
        st.booleans(), st.sampled_from([False] * 7 + [True]),
    )  # fmt: skip

    def decorated(made: Signature[Any], link: object, errback: object) -> Signature[Any]:
        if link and not isinstance(made, group) and not ends_in_group(made):
            made = made.link(labels.call(immutable=False, fails=False))
        return made.link_error(labels.errback()) if errback and not isinstance(made, group) else made

    def composed(inner: st.SearchStrategy[Signature[Any]]) -> st.SearchStrategy[Signature[Any]]:
        some = st.lists(inner, min_size=1, max_size=3)
        made = st.one_of(
            some.map(lambda steps: chain(*steps)),
            some.map(group),
            st.builds(
                lambda members, body, collects: chord(
                    members, body, collect_errors=collects and isinstance(body, Call)
                ),
                some, inner, st.sampled_from([False, False, True]),
            ),
        )  # fmt: skip
        return st.builds(decorated, made, st.booleans(), st.booleans())

    plain = st.builds(decorated, calls, st.sampled_from([False, False, True]), st.sampled_from([False, False, True]))
    return composed(st.recursive(plain, composed, max_leaves=8))


def ends_in_group(canvas: Signature[Any]) -> bool:
    """Whether its result is a GroupResult."""
    if isinstance(canvas, chain):
        return ends_in_group(canvas.steps[-1])
    if isinstance(canvas, chord):
        return ends_in_group(canvas.body)
    return isinstance(canvas, group)
