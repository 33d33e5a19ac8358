"""The steward: a child of the template with another main, which does what the supervisor may not: broker I/O.

    supervisor ──Bury, Reclaim──▶ steward ──bury, rescue, promote, purge, nudge──▶ broker
               ◀─Settled, Status, Happened──
    producers ──datagram on <node>.steward──▶ "a delayed message came: look when the next one is due"

It is level-triggered: each tick it does again whatever is not done yet, so a lost wake-up costs a second and
a lost steward nothing. Every command is idempotent. User code never runs here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from typing import TYPE_CHECKING, TypeVar

from poolrt.child.lifeline import Lifeline
from poolrt.child.main import Place, settle_in
from poolrt.errors import BrokerCorrupt, BrokerError
from poolrt.events import Event
from poolrt.notice import BootFailed, Bury, Happened, Reclaim, Settled, Status, Trouble, Up
from poolrt.posix.processes import rss_bytes
from poolrt.posix.unix_sockets import bind_datagram
from poolrt.states import EX_BOOT_FAILED, Activity, Order
from poolrt.steward.undertaking import Undertaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.app.app import App
    from poolrt.board import Board

log = logging.getLogger("poolrt.steward")
T = TypeVar("T")

TICK = 1.0
"""Seconds between two looks at everything."""
_PURGE_EVERY = 10
_RESCUE_EVERY = 5
_PURGE_ROWS = 1000


class Steward:
    """One steward until it is told to retire."""

    def __init__(self, app: App, place: Place, lifeline: Lifeline, max_deliveries: int) -> None:
        self._app = app
        self._broker = app.broker
        self._place = place
        self._lifeline = lifeline
        self._undertaker = Undertaker(app, place, max_deliveries, self._report)
        self._tickets: dict[int, Bury | Reclaim] = {}
        self._ticks = 0
        self._troubles: dict[str, str] = {}
        """What fails, and how it was told: reads go on in a file that another process keeps locked."""
        self._store_gone = False
        self._path = self._broker.node_directory() / f"{place.node}.steward"

    def run(self, order: Callable[[], int]) -> None:
        """Tick until the order is to retire; then give back whatever the node still holds. Or to hand over: then go."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        doorbell = bind_datagram(self._path)
        try:
            self._serve(order, doorbell)
        finally:
            doorbell.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _serve(self, order: Callable[[], int], doorbell: socket.socket) -> None:
        poll = select.poll()
        poll.register(self._lifeline.fileno(), select.POLLIN)
        poll.register(doorbell.fileno(), select.POLLIN)
        next_tick = time.monotonic()
        while not self._lifeline.cut:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK
                self._attempt(self._tick)
            due = self._attempt(self._broker.promote)
            self._attempt(self._work_off)
            if order() == Order.HAND_OVER:
                return  # what is not done yet is told to the next one
            if order() == Order.RETIRE and (self._store_gone or (not self._tickets and self._left())):
                return
            wait = max(0.0, next_tick - time.monotonic())
            if due is not None:
                wait = min(wait, max(due, 0.001))
            for fd, _ in poll.poll(wait * 1000 + 1):
                if fd == doorbell.fileno():
                    _drain(doorbell)
                else:
                    self._take_notices()

    def _left(self) -> bool:
        """Give back what the node still holds; whether the broker did it."""
        return self._attempt(lambda: self._broker.leave(self._place.incarnation)) is not None

    def _take_notices(self) -> None:
        for received in self._lifeline.receive():
            if isinstance(received, (Bury, Reclaim)):
                self._tickets[received.ticket] = received

    def _work_off(self) -> None:
        for ticket, command in list(self._tickets.items()):
            if isinstance(command, Bury):
                self._undertaker.bury(command)
            else:
                self._undertaker.reclaim(command)
            del self._tickets[ticket]
            self._lifeline.send(Settled(ticket))

    def _tick(self) -> None:
        self._ticks += 1
        depth = self._broker.depth()
        self._lifeline.send(Status(depth.queued, depth.delayed, depth.reserved, depth.dead, depth.oldest))
        self._broker.nudge()
        if self._ticks % _RESCUE_EVERY == 1:
            self._undertaker.rescue_dead_nodes()
            if self._ticks > 1:  # at the first one the supervisor may not have said yet what it wants reclaimed
                reclaimed = {each.incarnation for each in self._tickets.values() if isinstance(each, Reclaim)}
                self._undertaker.rescue_unlisted_starts(reclaimed)
        if self._ticks % _PURGE_EVERY == 0:
            while self._broker.purge(_PURGE_ROWS) == _PURGE_ROWS:
                pass

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Do broker work; trouble is said once, and the work is done again at a later tick."""
        if self._store_gone:
            return None
        name = work.__qualname__
        try:
            done = work()
        except BrokerCorrupt as error:
            self._store_gone = True  # another call would make a new, empty store in its place
            self._lifeline.send(Trouble(f"{type(error).__name__}: {error}", final=True))
            return None
        except BrokerError as error:
            text = f"{type(error).__name__}: {error}"
            if text not in self._troubles.values():
                self._lifeline.send(Trouble(text))
            self._troubles[name] = text
            return None
        if self._troubles.pop(name, "") and not self._troubles:
            self._lifeline.send(Trouble(""))
        return done

    def _report(self, event: Event) -> None:
        self._lifeline.send(Happened(event))


def run(app: App, place: Place, board: Board, sock: socket.socket, stacks: int) -> int:
    """The steward's main; returns its exit code."""
    began = time.monotonic()
    settle_in(place, "poolrt:steward", stacks)
    row = board.writer(place.slot)
    row.boot(os.getpid())
    lifeline = Lifeline(sock, None)
    steward = Steward(app, place, lifeline, place.settings.max_deliveries)
    try:
        app.broker.join(place.incarnation, place.node)
    except BrokerError as error:
        lifeline.send(BootFailed(f"{type(error).__name__}: {error}"))
        return EX_BOOT_FAILED
    lifeline.send(Up(time.monotonic() - began, rss_bytes(os.getpid()) or 0))
    row.activity(Activity.IDLE)
    steward.run(lambda: row.order)
    app.broker.close()
    return 0


def _drain(doorbell: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            doorbell.recv(16, socket.MSG_DONTWAIT)
