"""Signatures: calls that are not made yet, and what is composed of them. They never change: each method makes another.

add.s(1, 2) | double.s()            a chain: the value of each step is put before the arguments of the next
group(add.s(i, i) for i in items)   calls beside each other
group(...) | total.s()              a chord: its body gets the results of all, in order
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from poolrt.app.canvas.parts import (
    CallPart,
    FanPart,
    Lazy,
    Part,
    Parts,
    awaited,
    joined,
    later_of,
    nested,
    under,
    with_links,
)  # fmt: skip
from poolrt.app.canvas.plain import composed, plain_options
from poolrt.app.canvas.planning import apply, of_no_members
from poolrt.app.canvas.steps import MAX_MEMBERS, MAX_STEPS
from poolrt.errors import ConfigurationError

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.app.canvas.results import GroupResult
    from poolrt.app.result import AsyncResult
    from poolrt.app.task import Task

R = TypeVar("R")
S = TypeVar("S")

OPTIONS: Final = frozenset({
    "countdown", "eta", "expires", "queue", "priority", "headers", "ignore_result", "result_ttl", "track_started",
    "max_retries", "time_limit", "soft_time_limit", "memory_limit", "task_id",
})  # fmt: skip
"""Those of ``apply_async``."""
COLLECT: Final = "poolrt.collect"


class Signature(abc.ABC, Generic[R]):
    """A call, or several that belong together.

    Attributes:
        options: as ``apply_async`` takes them; of a chain, a group or a chord those of its calls, which go before.
        links: called with the value.
        errbacks: called with the id of what has failed.
    """

    __slots__ = ("errbacks", "links", "options")

    def __init__(
        self, options: Mapping[str, Any] | None = None, links: Iterable[Signature[Any]] = (),
        errbacks: Iterable[Signature[Any]] = (),
    ) -> None:  # fmt: skip
        self.options = _checked(options or {})
        self.links = tuple(links)
        self.errbacks = tuple(errbacks)

    def having(self, **changes: Any) -> Self:
        """The same, with other attributes."""
        made = object.__new__(type(self))
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                object.__setattr__(made, name, changes.get(name, getattr(self, name)))
        return made

    def __eq__(self, other: object) -> bool:
        """Whether it is the same call."""
        if type(other) is not type(self):
            return NotImplemented
        return bool(self.to_dict() == other.to_dict())

    __hash__ = None  # type: ignore[assignment]  # arguments may be lists

    # ---- what it is

    @property
    @abc.abstractmethod
    def app(self) -> App:
        """The app of its tasks; raises ConfigurationError if nothing is in it."""

    @abc.abstractmethod
    def line(self) -> Parts:
        """Its parts, flat."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it, if its arguments are of JSON; ``App.signature`` makes it a signature again."""

    # ---- others like it

    def clone(self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """The same with more arguments: ``args`` before its own, ``kwargs`` and options over them.

        Those of a chain are its first call's, those of a group or chord every member's. Immutable calls take none.
        """
        made = self._partial(tuple(args), kwargs or {}) if args or kwargs else self
        return made.set(**options) if options else made

    @abc.abstractmethod
    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self: ...

    def set(self, **options: Any) -> Self:
        """The same with these options of ``apply_async``; raises ConfigurationError for an unknown one."""
        return self.having(options=_checked({**self.options, **options}))

    def link(self, callback: Signature[Any]) -> Self:
        """The same, with a signature that is called with its value when it has succeeded, beside what follows it."""
        return self.having(links=(*self.links, _is_signature(callback)))

    def link_error(self, errback: Signature[Any]) -> Self:
        """The same, with a call that is made if it ends without a value; its first argument is the id of what did.

        Of a chain: if any of its steps does; of a chord: if any member or the body does; of a group: for each member.
        """
        return self.having(errbacks=(*self.errbacks, _is_signature(errback)))

    def __or__(self, other: Signature[S]) -> chain[S]:
        """``first | then``: a chain."""
        return chain(self, other) if isinstance(other, Signature) else NotImplemented

    def _linked(self, parts: tuple[Part, ...]) -> Parts:
        """A line of these parts, with its links and errbacks."""
        if self.links:
            parts = awaited(parts, _collect(self.app))
            parts = (*parts[:-1], with_links(parts[-1], self.links))
        return Parts(parts, self.errbacks)

    # ---- calling it

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Enqueue it; ``args`` are put before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:  # fmt: skip
        """Enqueue it; see ``clone``, and ``Task.apply_async`` for the options. Its result is that of its last step.

        With ``task_id`` the whole of it is enqueued once, however often it is applied under that id.

        Raises:
            ConfigurationError: it is too large, too deep, or an option is wrong; nothing is enqueued.
            EncodingError, BrokerError: as ``Task.apply_async``; a note says what of it was enqueued before.
        """
        made: AsyncResult[R] = apply(self.clone(args, kwargs, **options))
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Enqueue it, as a call of a chain, group or chord does in Celery; ``args`` are put before its own."""
        return self.apply_async(args, kwargs)


class Call(Signature[R]):
    """A call of a task: ``task.s(…)``, or ``task.si(…)``, which takes no value of what is before it."""

    __slots__ = ("args", "immutable", "kwargs", "task")

    def __init__(
        self, task: Task[..., R], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *,
        immutable: bool = False, options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(options)
        self.task = task
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self.immutable = immutable

    def __repr__(self) -> str:
        """Without its arguments."""
        return f"{self.task.name}.{'si' if self.immutable else 's'}({len(self.args) + len(self.kwargs)} arguments)"

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Call the task's function here and now; ``args`` are put before its own."""
        call = self.clone(args, kwargs)
        return call.task(*call.args, **call.kwargs)

    @property
    def app(self) -> App:
        """See Signature."""
        return self.task.app

    def line(self) -> Parts:
        """See Signature."""
        return Parts(
            (CallPart(self.task, self.args, self.kwargs, self.options, self.immutable, self.links, self.errbacks),)
        )

    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self if self.immutable else self.having(args=args + self.args, kwargs={**self.kwargs, **kwargs})

    def to_dict(self) -> dict[str, Any]:
        """See Signature."""
        return {
            "task": self.task.name, "args": list(self.args), "kwargs": dict(self.kwargs),
            "options": plain_options(self), "subtask_type": None, "immutable": self.immutable,
        }  # fmt: skip


class chain(Signature[R]):  # noqa: N801  Celery's name
    """Steps one after the other; ``a | b | c`` is one. Its result is the last step's."""

    __slots__ = ("steps",)

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        flat: list[Signature[Any]] = []
        for step in _given(steps):
            plain = type(_is_signature(step)) is chain and not (step.options or step.links or step.errbacks)
            flat += step.steps if plain else (step,)
        _refuse_more(len(flat), MAX_STEPS, "steps in a chain")
        self.steps = tuple(flat)

    def __repr__(self) -> str:
        """Short."""
        shown = " | ".join(map(repr, self.steps[:3]))
        return f"chain({shown}{f' | … {len(self.steps)} steps' if len(self.steps) > 3 else ''})"

    @property
    def app(self) -> App:
        """See Signature."""
        if not self.steps:
            raise ConfigurationError("this chain has no step")
        return self.steps[0].app

    def line(self) -> Parts:
        """See Signature."""
        parts: list[Part] = []
        for number, step in enumerate(self.steps):
            options = later_of(self.options) if number else self.options
            parts += (under(part, options) for part in nested(step.line()))
        _refuse_more(len(parts), MAX_STEPS, "steps in a chain")
        return self._linked(joined(parts, _collect(self.app)))

    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self.having(steps=(self.steps[0].clone(args, kwargs), *self.steps[1:]))

    def to_dict(self) -> dict[str, Any]:
        """See Signature."""
        return composed("chain", self, tasks=[each.to_dict() for each in self.steps])


class group(Signature[list[Any]]):  # noqa: N801  Celery's name
    """Calls beside each other: its result is a GroupResult, in their order. A group in a group is part of it.

    Args:
        members: signatures, or one iterable of them.
    """

    __slots__ = ("members",)

    def __init__(self, *members: Any) -> None:
        super().__init__()
        given = _given(members)
        self.members: Collection[Signature[Any]] = given if isinstance(given, Lazy) else tuple(_flat(given))
        _refuse_more(len(self.members), MAX_MEMBERS, "members in a group")

    def __repr__(self) -> str:
        """Short."""
        return f"group({len(self.members)} members)"

    @property
    def app(self) -> App:
        """See Signature."""
        for member in self.members:
            return member.app
        raise ConfigurationError("this group has no member")

    def line(self) -> Parts:
        """See Signature."""
        return Parts((FanPart(self.members, self.options, self.errbacks),))

    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self.having(members=tuple(each.clone(args, kwargs) for each in self.members))

    def link(self, callback: Signature[Any]) -> Self:
        """Refused: ``group | callback`` is a chord."""
        raise ConfigurationError("a group has no value to call back with: write group(...) | callback, a chord")

    def delay(self, *args: Any, **kwargs: Any) -> GroupResult:  # type: ignore[override]  # of many
        """Enqueue all members; ``args`` are put before their own."""
        return self.apply_async(args, kwargs)

    def apply_async(  # type: ignore[override]  # of many
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> GroupResult:
        """Enqueue all members; see Signature."""
        made: GroupResult = apply(self.clone(args, kwargs, **options)) if len(self.members) else of_no_members()
        return made

    def to_dict(self) -> dict[str, Any]:
        """See Signature."""
        return composed("group", self, tasks=[each.to_dict() for each in self.members])


class chord(Signature[R]):  # noqa: N801  Celery's name
    """A group and its body, which is called once with the list of all results when all members have succeeded.

    If a member ends without a value, the body is not called: its result fails at once, with ChordError.

    Args:
        header: a group, or an iterable of signatures.
        body: a signature; or left out, and given to the call: ``chord(header)(body)``.
        collect_errors: call the body in any case; the result of a member that failed is then its exception.
    """

    __slots__ = ("_body", "collect_errors", "header")

    def __init__(self, header: Any, body: Signature[R] | None = None, *, collect_errors: bool = False) -> None:
        super().__init__()
        self.header = header if isinstance(header, group) else group(header)
        self._body: Signature[R] | None = None if body is None else _is_signature(body)
        self.collect_errors = collect_errors

    def __call__(self, body: Signature[R] | None = None, **kwargs: Any) -> AsyncResult[R]:
        """Enqueue it, with this body if one is given."""
        return (self if body is None else self.having(_body=_is_signature(body))).apply_async(kwargs=kwargs)

    @property
    def body(self) -> Signature[R]:
        """What is called; raises ConfigurationError if there is none."""
        if self._body is None:
            raise ConfigurationError("this chord has no body: write chord(header, body), or chord(header)(body)")
        return self._body

    def __repr__(self) -> str:
        """Short."""
        return f"chord({self.header!r}, {self._body!r})"

    @property
    def app(self) -> App:
        """See Signature."""
        return self.body.app

    def line(self) -> Parts:
        """See Signature."""
        header = self.header
        fan = FanPart(header.members, {**self.options, **header.options}, header.errbacks, None, self.collect_errors)
        parts = [fan, *(under(part, later_of(self.options)) for part in nested(self.body.line()))]
        return self._linked(joined(parts, _collect(self.app)))

    def _partial(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Self:
        return self.having(header=self.header.clone(args, kwargs))

    def to_dict(self) -> dict[str, Any]:
        """See Signature."""
        made = composed("chord", self, header=self.header.to_dict(), body=self.body.to_dict())
        return {**made, "kwargs": {**made["kwargs"], "collect_errors": self.collect_errors}}


def _given(signatures: tuple[Any, ...]) -> Iterable[Any]:
    """The signatures, or the one iterable that was given instead."""
    only = signatures[0] if len(signatures) == 1 else None
    return only if isinstance(only, Iterable) else signatures


def _flat(members: Iterable[Any]) -> Iterator[Signature[Any]]:
    """The members, those of groups among them one by one, with what these groups give them."""
    for member in members:
        if type(_is_signature(member)) is group:
            for each in member.members:
                yield each.having(options={**member.options, **each.options}, errbacks=each.errbacks + member.errbacks)
        else:
            yield member


def _collect(app: App) -> CallPart:
    return CallPart(app.builtin[COLLECT], (), {}, {})


def _is_signature(given: Any) -> Any:
    if not isinstance(given, Signature):
        raise ConfigurationError(f"a workflow is made of signatures such as task.s(…), not of {type(given).__name__}")
    return given


def _refuse_more(count: int, most: int, what: str) -> None:
    if count > most:
        raise ConfigurationError(f"{count} {what}: at most {most}; use chunks, or let a task start the next part")


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(options.keys() - OPTIONS):
        raise ConfigurationError(f"unknown option {unknown[0]!r} of a call; there are {', '.join(sorted(OPTIONS))}")
    return dict(options)
