"""The steward: a child of the template with another main, which does what the supervisor may not: broker I/O.

    supervisor ──Bury, Reclaim, Leaked, Poke──▶ steward ──renew, bury, rescue, promote, nudge, note_leaks, …──▶ broker
               ◀─Settled, Status, LeaseLost──
    producers ──the broker's doorbell──▶ "a delayed message came: look when the next one is due"

It is level-triggered: each tick it does again whatever is not done yet, so a lost wake-up costs a second and
a lost steward nothing. Every command is idempotent. User code never runs here. Between two calls of the broker it takes
its ``turn``: it stamps the board, and renews the node's lease if it is time.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from typing import TYPE_CHECKING, TypeVar

from poolrt.child.lifeline import Lifeline
from poolrt.child.main import Place, settle_in
from poolrt.errors import BrokerCorrupt, BrokerError, Fenced
from poolrt.events import Event
from poolrt.notice import BootFailed, Bury, Happened, Leaked, LeaseLost, Poke, Reclaim, Settled, Status, Trouble, Up
from poolrt.posix.processes import rss_bytes
from poolrt.states import EX_BOOT_FAILED, EX_FENCED, Activity, Order
from poolrt.steward.cancelling import Cancelling
from poolrt.steward.leaks import Leaks
from poolrt.steward.recalls import Recalls
from poolrt.steward.renewal import Renewal
from poolrt.steward.undertaking import Undertaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.app.app import App
    from poolrt.board import Board
    from poolrt.brokers.base import Doorbell

log = logging.getLogger("poolrt.steward")
T = TypeVar("T")

TICK = 1.0
"""Seconds between two looks at everything."""
_PURGE_EVERY = 10
_RESCUE_EVERY = 5
_PURGE_ROWS = 1000


class Steward:
    """One steward until it is told to retire."""

    def __init__(self, app: App, place: Place, lifeline: Lifeline, board: Board) -> None:
        self._app = app
        self._broker = app.broker
        self._place = place
        self._lifeline = lifeline
        self._board = board
        self._renewal = Renewal(app.broker, place, board)
        self._undertaker = Undertaker(app, place, self._report, self.turn)
        self._recalls = Recalls(app.broker, board, place.incarnation, lifeline.send, self.turn)
        self._cancelling = Cancelling(app.broker, place.incarnation, lifeline.send, self.turn)
        self._leaks = Leaks(app.broker, place.owner)
        self._tickets: dict[int, Bury | Reclaim] = {}
        self._ticks = 0
        self._troubles: dict[str, str] = {}
        """What fails, and how it was told: reads go on in a file that another process keeps locked."""
        self._store_gone = False
        self._over = ""
        """Why the start is over: the broker does not hear it any more."""
        self._leaves = False
        self._doorbell: Doorbell | None = None

    def join(self) -> None:
        """Make the start known, and get its lease. One that had a lease is known, or over: nothing makes it anew.

        Raises:
            Fenced: it is over already.
            BrokerError: the broker did not do it.
        """
        self._board.publish_beat(time.monotonic_ns())
        if not self._board.lease_until:
            self._broker.join(self._place.incarnation, self._place.node)
            self._board.publish_beat(time.monotonic_ns())
        if self._broker.leases:
            self._renewal.renew()

    def run(self, order: Callable[[], int]) -> None:
        """Tick until the order is to retire; then give back whatever the node still holds. Or to hand over: then go."""
        try:
            self._serve(order)
        finally:
            if self._doorbell is not None:
                self._doorbell.close()

    def turn(self) -> None:
        """Say that the loop goes round, and renew the lease if it is time: between two calls of the broker.

        Raises:
            Fenced: the start is over: nothing more is to be done.
        """
        self._stamp()
        if time.monotonic() >= self._renewal.due:
            self._attempt(self._renew)
            self._stamp()
        if self._over:
            raise Fenced(self._over)

    def _stamp(self) -> None:
        """Say that the loop goes round. Between two calls that fail too: in an outage each takes as long as it may."""
        self._board.publish_beat(time.monotonic_ns())

    def _renew(self) -> None:
        if self._renewal.renew():
            self._lifeline.send(Poke())  # the supervisor waits for nothing else

    def _serve(self, order: Callable[[], int]) -> None:
        next_tick = time.monotonic()
        rung = False
        while not self._lifeline.cut:
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                self._attempt(self._tick)
                self._attempt(self._leaks.write)
                rung = True
            due = self._attempt(self._broker.promote)
            for work in (self.turn, self._work_off, self.turn, self._rescue_expired, self.turn):
                self._attempt(work)
            if self._attempt(self._recalls.work_off) or rung:
                self._attempt(self._cancelling.look)
            if order() == Order.HAND_OVER:
                self._write_last_leaks()
                return  # what else is not done yet is told to the next one
            if order() == Order.RETIRE and (self._store_gone or self._over or (not self._tickets and self._left())):
                return
            rung = self._wait(next_tick, due)

    def _wait(self, next_tick: float, due: float | None) -> bool:
        """Until somebody says something, or it is time for a tick, a renewal, or a message; whether the bell rang."""
        poll = select.poll()
        poll.register(self._lifeline.fileno(), select.POLLIN)
        self._attempt(self.turn)
        bell = self._doorbell.fileno() if self._doorbell is not None and not self._over else -1
        if bell >= 0:
            poll.register(bell, select.POLLIN)
        self._stamp()
        wait = max(0.0, min(next_tick, self._renewal.due) - time.monotonic())
        if due is not None:
            wait = min(wait, max(due, 0.001))
        ready = {fd for fd, _ in poll.poll(wait * 1000 + 1)}
        self._stamp()
        if self._lifeline.fileno() in ready:
            self._take_notices()
        if self._doorbell is None or bell not in ready:
            return False
        self._doorbell.answer()
        return True

    def _left(self) -> bool:
        """Give back what the node still holds; whether the broker did it."""
        self._leaves = True
        self._write_last_leaks()
        self._renewal.stop()  # a renewal would be refused: it may be done though its answer was lost
        left = self._attempt(lambda: self._broker.leave(self._place.incarnation)) is not None
        if left:
            self._attempt(self._cancelling.left)
        return left

    def _write_last_leaks(self) -> None:
        """The supervisor told them before it gave the order to go, and may not tell them again."""
        self._take_notices()
        self._attempt(self._leaks.write)

    def _take_notices(self) -> None:
        for received in self._lifeline.receive():
            if isinstance(received, (Bury, Reclaim)):
                self._tickets[received.ticket] = received
            elif isinstance(received, Leaked):
                self._leaks.add(received.row)
            elif isinstance(received, Poke):
                self._renewal.soon()

    def _work_off(self) -> None:
        for ticket, command in list(self._tickets.items()):
            self.turn()
            if isinstance(command, Bury):
                self._undertaker.bury(command)
            else:
                self._undertaker.reclaim(command)
            del self._tickets[ticket]
            self._lifeline.send(Settled(ticket))

    def _tick(self) -> None:
        self._ticks += 1
        self.turn()
        if self._doorbell is None:
            self._doorbell = self._broker.doorbell(self._place.node)
            self.turn()
        depth = self._broker.depth()
        self._lifeline.send(Status(depth.queued, depth.delayed, depth.reserved, depth.dead, depth.oldest))
        self.turn()
        self._broker.nudge()
        self.turn()
        if self._ticks % _RESCUE_EVERY == 1:
            self._undertaker.rescue_dead_nodes()
            # At the first one the supervisor may not have said yet what it wants reclaimed.
            if self._ticks > 1 and not self._broker.leases:
                reclaimed = {each.incarnation for each in self._tickets.values() if isinstance(each, Reclaim)}
                self._undertaker.rescue_unlisted_starts(reclaimed)
        if self._ticks % _PURGE_EVERY == 0:
            self.turn()
            while self._broker.purge(_PURGE_ROWS) == _PURGE_ROWS:
                self.turn()
        self.turn()

    def _rescue_expired(self) -> None:
        """Of a lease that is over nothing is known but its beat; the other rescues know more, and are sooner."""
        expired, self._renewal.expired = self._renewal.expired, []
        for each in expired:
            self.turn()
            self._undertaker.rescue_expired(each)

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Do broker work; trouble is said once, and the work is done again at a later tick."""
        if self._store_gone or self._over:
            return None
        name = work.__qualname__
        self._stamp()
        try:
            done = work()
        except Fenced as error:
            self._is_over(error)
            return None
        except BrokerCorrupt as error:
            self._renewal.stop()
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

    def _is_over(self, error: Fenced) -> None:
        """Nothing is this start's any more: tell it once, and do nothing more; unless it has just left by itself."""
        if not self._over and not self._leaves:
            self._lifeline.send(LeaseLost(str(error)))
        self._over = self._over or str(error)
        self._renewal.stop()

    def _report(self, event: Event) -> None:
        self._lifeline.send(Happened(event))


def run(app: App, place: Place, board: Board, sock: socket.socket, stacks: int) -> int:
    """The steward's main; returns its exit code."""
    began = time.monotonic()
    settle_in(place, "poolrt:steward", stacks)
    row = board.writer(place.slot)
    row.boot(os.getpid())
    lifeline = Lifeline(sock, None)
    steward = Steward(app, place, lifeline, board)
    try:
        steward.join()
    except Fenced as error:
        lifeline.send(LeaseLost(str(error)))
        return EX_FENCED
    except BrokerError as error:
        lifeline.send(BootFailed(f"{type(error).__name__}: {error}"))
        return EX_BOOT_FAILED
    lifeline.send(Up(time.monotonic() - began, rss_bytes(os.getpid()) or 0))
    row.activity(Activity.IDLE)
    steward.run(lambda: row.order)
    app.broker.close()
    return 0
