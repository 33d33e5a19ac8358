"""Where a caller waits for the end of a task: a list of its own, to which the script that ends the task pushes.

    await.lua: "tell {ns}:answer:…" ──▶ BLPOP {ns}:answer:… ──▶ the caller looks for the record
    settle, bury, rescue, cancel ──RPUSH──▶ {ns}:answer:…

Only sending and receiving are shielded: a soft limit ends the wait in between at once.
"""

from __future__ import annotations

import contextlib
import secrets
import select
from types import TracebackType

from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.channel import Channel, Deadline
from poolrt.errors import BrokerBusy, BrokerError, BrokerReadOnly, BrokerUnreachable
from poolrt.shielding import SHIELD


class Waiting:
    """One wait of one caller for one task.

    Args:
        address: of the server.
        calls: this process's connections.
        task_id: what is waited for.
        deadline: when it must be over, also where the server does not answer; None: no such time.
    """

    def __init__(self, address: Address, calls: Calls, task_id: str, deadline: Deadline | None) -> None:
        self._address = address
        self._calls = calls
        self._task_id = task_id
        self._deadline = deadline
        self._key = f"{{{address.namespace}}}:answer:{secrets.token_hex(8)}"
        self._channel = Channel(address)

    def __enter__(self) -> Waiting:
        return self

    def listen(self) -> None:
        """Leave word that this caller waits: whoever ends the task from now on tells it."""
        self._calls.run("await", self._task_id, self._key, deadline=self._deadline)

    def nap(self, seconds: float) -> None:
        """Sleep until told, at most so long; also returns when the connection broke, so that the caller looks."""
        try:
            with SHIELD:
                self._channel.open(self._calls.timeout)
                self._channel.allow(self._calls.timeout)
                self._channel.send("BLPOP", self._key, max(seconds, 0.001))
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            patience = seconds + self._calls.timeout
            if self._deadline is not None:
                patience = max(0.0, min(patience, self._deadline.left()))
            if not poll.poll(patience * 1000):
                raise BrokerUnreachable(f"{self._address.url}: the server did not answer in time; is it stopped?")
            with SHIELD:
                self._channel.receive()
        except (BrokerUnreachable, BrokerBusy, BrokerReadOnly):
            self._channel.close()
            if not self._address.retry:
                raise
        except BaseException:
            self._channel.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._channel.close()
        if kind is None or not issubclass(kind, BrokerError):
            # Where the server is away the word stays, and goes with the task.
            with contextlib.suppress(BrokerError):
                self._calls.run("await_no_more", self._task_id, self._key)
