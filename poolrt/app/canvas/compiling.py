"""From the parts of a line to its steps, encoded: at the producer, before anything is enqueued."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from poolrt.app.calls import CallOptions, message_of
from poolrt.app.canvas.ids import bounded, derived, group_id, step_ids
from poolrt.app.canvas.parts import CallPart, FanPart, Part, Parts, awaited, inherited, with_ends
from poolrt.app.canvas.steps import (
    MAX_DEPTH,
    MAX_LINE_BYTES,
    Call,
    Fan,
    Line,
    Links,
    encode_errback,
    encode_step,
    packed,
)
from poolrt.app.middleware import changed_by
from poolrt.codec import JSON
from poolrt.errors import ConfigurationError
from poolrt.message import Message
from poolrt.terms import NO_TERMS, Slot, Terms
from poolrt.units import parse_duration

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.app.canvas.signature import Signature

log = logging.getLogger("poolrt.app")


class Compiler:
    """Makes the steps of one workflow.

    Args:
        app: of all its tasks.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._collect = CallPart(app.builtin["poolrt.collect"], (), {}, {})

    def line(
        self, line: Parts, result_id: str, *, is_fed: bool = True, is_awaited: bool = False, is_headless: bool = False,
        depth: int = 0,
    ) -> Line:  # fmt: skip
        """A line of steps.

        Args:
            line: its parts.
            result_id: what the last one will have as its id.
            is_fed: whether a value is put before the arguments of the first one.
            is_awaited: whether a group waits for it: it has one result, and keeps that.
            is_headless: leave the members out of a group that it begins with.
            depth: levels of nesting around it.

        Raises:
            ConfigurationError: too large, too deep, an option is wrong, or a task cannot be part of a workflow.
            EncodingError: an argument cannot be carried.
        """
        if depth > MAX_DEPTH:
            raise ConfigurationError(f"a workflow nested deeper than {MAX_DEPTH} levels")
        parts = awaited(line.parts, self._collect) if is_awaited else line.parts
        if not parts:
            raise ConfigurationError("a chain without a step in a workflow")
        parts = with_ends(parts, line.errbacks)
        ids = step_ids(result_id, len(parts))
        steps: list[bytes] = []
        for number, (part, step_id) in enumerate(zip(parts, ids, strict=True)):
            keeps = is_awaited and number == len(parts) - 1
            bare = is_headless and number == 0
            step = self.step(part, step_id, is_fed=is_fed or number > 0, keeps=keeps, is_bare=bare, depth=depth)
            steps.append(encode_step(step))
            steps += (encode_step(links) for links in self.links(part, step_id, depth))
        if (size := sum(map(len, steps))) > MAX_LINE_BYTES:
            raise ConfigurationError(
                f"{len(steps)} steps have {size} bytes together, more than {MAX_LINE_BYTES}: each message carries "
                "those that follow it; store the data elsewhere, or let a task start the next part"
            )
        return Line(packed(steps), last_call(parts, ids), self.errbacks(line.errbacks, result_id, own=False))

    def step(
        self, part: Part, step_id: str, *, is_fed: bool, keeps: bool = False, is_bare: bool = False, depth: int = 0
    ) -> Call | Fan:  # fmt: skip
        """One part; ``keeps``: its result is kept in any case; ``is_bare``: a group without its members."""
        if isinstance(part, CallPart):
            return self.call(part, step_id, is_fed=is_fed, keeps=keeps)
        if part.body is not None and not len(part.members):
            nothing = part.body._replace(args=((), *part.body.args) if not part.body.is_immutable else part.body.args)
            return self.call(nothing._replace(is_immutable=True), step_id, is_fed=False, keeps=keeps)
        head = self.head(part, step_id, keeps=keeps)
        if is_bare:
            return head
        return msgspec.structs.replace(head, members=tuple(self.members(part, head.id, is_fed=is_fed, depth=depth)))

    def head(self, part: FanPart, step_id: str, *, keeps: bool = False) -> Fan:
        """A group without its members."""
        size = len(part.members)
        if part.body is None:
            return Fan(bounded(step_id), size)
        body = self.call(part.body, step_id, is_fed=True, keeps=keeps)
        if body.is_keyed:
            raise ConfigurationError(
                f"limit_key of {part.body.task.name} is a function of its arguments, and as the body of a group it "
                "gets them when it runs: use .si(), or a key that is a text"
            )
        return Fan(group_id(step_id), size, body=body, collects=part.collects)

    def members(self, part: FanPart, fan_id: str, *, is_fed: bool, depth: int = 0) -> Iterator[Line]:
        """The lines of the members of a group, one by one."""
        for index, member in enumerate(part.members):
            line = inherited(member.line(), part)
            yield self.line(
                line, Slot(fan_id, index).id, is_fed=is_fed, is_awaited=part.body is not None, depth=depth + 1
            )

    def links(self, part: Part, step_id: str, depth: int) -> Iterator[Links]:
        """What is called with the value of a part, beside what follows it."""
        call = part if isinstance(part, CallPart) else part.body
        if call is not None and call.links:
            yield Links(
                tuple(
                    self.line(link.line(), derived(step_id, f"l{number}"), depth=depth + 1)
                    for number, link in enumerate(call.links)
                )
            )

    def errbacks(self, errbacks: tuple[Signature[Any], ...], of: str, *, own: bool) -> tuple[bytes, ...]:
        """What is called if a line, or a step of its ``own``, ends without a value."""
        made = []
        for number, errback in enumerate(errbacks):
            parts = errback.line().parts
            if len(parts) != 1 or not isinstance(parts[0], CallPart):
                raise ConfigurationError("link_error takes one call, not several: let its task start the others")
            errback_id = derived(of, f"{'e' if own else 'c'}{number}")
            call = self.call(parts[0]._replace(errbacks=()), errback_id, is_fed=True)
            if call.message.codec != JSON or call.is_keyed:
                raise ConfigurationError(
                    f"{call.message.task} as an errback: its arguments must be plain values, which JSON carries, "
                    "and its limit_key a text, since whoever sees a failure may know nothing of its app"
                )
            if self._app.middleware:
                call = msgspec.structs.replace(call, message=changed_by(self._app.middleware, call.message))
            made.append(encode_errback(call, own=own))
        return tuple(made)

    def call(self, part: CallPart, step_id: str, *, is_fed: bool, keeps: bool = False) -> Call:
        """A call of a task."""
        task = part.task
        if task.app.broker.url != self._app.broker.url:
            raise ConfigurationError(f"{task.name} belongs to another app's broker: one workflow, one broker")
        if task.options.unique:
            raise ConfigurationError(
                f"{task.name} is unique: a call of it may be refused, and the workflow around it would wait for ever"
            )
        if "task_id" in part.options:
            raise ConfigurationError("task_id is of a whole workflow: give it to apply_async")
        options = dict(part.options)
        countdown, expires = options.pop("countdown", None), options.pop("expires", None)
        expires_in = None
        if expires is not None and not isinstance(expires, datetime):
            expires_in, expires = parse_duration(expires), None
        given = CallOptions(task_id=step_id)
        if options or expires is not None:
            eta = options.pop("eta", None)
            given = CallOptions.parse(countdown=None, eta=eta, expires=expires, task_id=step_id, **options)
        if expires_in is None and expires is None:
            expires_in = task.options.expires
        is_fed = is_fed and not part.is_immutable
        message = message_of(task, part.args, part.kwargs, given, is_whole=not is_fed)
        message = msgspec.structs.replace(
            message, enqueued_at=0.0, expires=message.expires if expires is not None else None,
            ignore_result=message.ignore_result and not keeps, terms=_own_terms(message),
        )  # fmt: skip
        return Call(
            message,
            part.is_immutable or not is_fed,
            None if countdown is None else parse_duration(countdown),
            expires_in,
            is_fed and task.is_gated and callable(task.options.limit_key),
            self.errbacks(part.errbacks, step_id, own=True) if part.errbacks else (),
        )


def _own_terms(message: Message) -> Terms | None:
    """Of its terms what is the call's own, and not of where it stands."""
    terms = message.terms
    if terms is None:
        return None
    own = Terms(gate=terms.gate, track_started=terms.track_started, max_retries=terms.max_retries)
    return None if own == NO_TERMS else own


def last_call(parts: tuple[Part, ...], ids: list[str]) -> str:
    """The id of the last call in a line, whose record is its result; empty if it has none."""
    if isinstance(parts[-1], FanPart) and parts[-1].body is None:
        return ids[-2] if len(ids) > 1 else ""
    return ids[-1]
