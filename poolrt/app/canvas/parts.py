"""What signatures are made of once they are flat: one part for each step of a line, with all that it inherits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from poolrt.app.canvas.signature import Signature
    from poolrt.app.task import Task


_OF_THE_FIRST: Final = frozenset({"countdown", "eta", "task_id"})
"""Options of a chain that are not those of its later steps."""


class Lazy(Collection["Signature[Any]"]):
    """Members of a group that are made one by one, each time they are asked for."""

    __slots__ = ()


class CallPart(NamedTuple):
    """A call of a task."""

    task: Task[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]
    is_immutable: bool = False
    links: tuple[Signature[Any], ...] = ()
    errbacks: tuple[Signature[Any], ...] = ()


class FanPart(NamedTuple):
    """A group, with the call that waits for it, if any."""

    members: Collection[Signature[Any]]
    options: Mapping[str, Any]
    """Of each member, behind its own."""
    errbacks: tuple[Signature[Any], ...] = ()
    """Of each member."""
    body: CallPart | None = None
    collects: bool = False
    before: tuple[Signature[Any], ...] = ()
    """Called if the group before this one fails, for which nothing else waits."""


Part: TypeAlias = CallPart | FanPart


class Parts(NamedTuple):
    """A line: its parts one after the other, and what is called if any of them fails."""

    parts: tuple[Part, ...]
    errbacks: tuple[Signature[Any], ...] = ()


def joined(parts: list[Part], collect: CallPart) -> tuple[Part, ...]:
    """The parts, where a group that something follows gets that as its body: what can be one, or ``collect``."""
    made: list[Part] = []
    for part in parts:
        before = made[-1] if made else None
        if isinstance(before, FanPart) and before.body is None:
            if isinstance(part, CallPart):
                made[-1] = before._replace(body=part)
                continue
            made[-1] = before._replace(body=collect._replace(errbacks=part.before))
        made.append(part)
    return tuple(made)


def awaited(parts: tuple[Part, ...], collect: CallPart) -> tuple[Part, ...]:
    """The parts, where a group at the end is collected, so that the line has one result."""
    last = parts[-1]
    if isinstance(last, FanPart) and last.body is None:
        return (*parts[:-1], last._replace(body=collect))
    return parts


def nested(line: Parts) -> list[Part]:
    """The parts of a line that stands in another one, with its errbacks: of each call, of each body of a group, and of
    the members of a group without one."""
    parts: list[Part] = [with_errbacks(part, line.errbacks) for part in line.parts]
    if parts and isinstance(first := parts[0], FanPart):
        parts[0] = first._replace(before=first.before + line.errbacks)
    return parts


def with_errbacks(part: Part, errbacks: tuple[Signature[Any], ...]) -> Part:
    """The part with more errbacks."""
    if isinstance(part, FanPart) and part.body is not None:
        return part._replace(body=part.body._replace(errbacks=part.body.errbacks + errbacks))
    return part._replace(errbacks=part.errbacks + errbacks)


def with_ends(parts: tuple[Part, ...], errbacks: tuple[Signature[Any], ...]) -> tuple[Part, ...]:
    """The parts of a line, where the members of a group at its end have its errbacks: each of them is an end of it."""
    if isinstance(parts[-1], FanPart) and parts[-1].body is None:
        return (*parts[:-1], with_errbacks(parts[-1], errbacks))
    return parts


def with_links(part: Part, links: tuple[Signature[Any], ...]) -> Part:
    """The part with more links, which begin with the value of the call, or of the body."""
    if isinstance(part, CallPart):
        return part._replace(links=part.links + links)
    body = part.body
    return part if body is None else part._replace(body=body._replace(links=body.links + links))


def inherited(line: Parts, fan: FanPart) -> Parts:
    """The line of a member with what it has from its group: options behind its own, and errbacks."""
    if not (fan.options or fan.errbacks):
        return line
    later = later_of(fan.options)
    parts = tuple(
        part._replace(options={**(later if number else fan.options), **part.options})
        for number, part in enumerate(line.parts)
    )
    return Parts(parts, line.errbacks + fan.errbacks)


def under(part: Part, options: Mapping[str, Any]) -> Part:
    """The part with the options of what it stands in, behind its own."""
    if not options:
        return part
    made = part._replace(options={**options, **part.options})
    if isinstance(made, FanPart) and made.body is not None:
        return made._replace(body=made.body._replace(options={**later_of(options), **made.body.options}))
    return made


def later_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a line's options that are for each of its steps."""
    return {name: value for name, value in options.items() if name not in _OF_THE_FIRST}
