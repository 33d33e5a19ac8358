"""One connection to the server, opened when it is needed, for one thread of one process at a time.

    send ──EVALSHA, not awaited──▶ server ──▶ receive      answers come in the order of what was sent
    call = send and receive

Any error that leaves the connection in doubt closes it: what was sent and not answered is then unknown, and only
its owner's ``resume`` (or the script's being safe to repeat) tells more. A connection never crosses a fork.
"""

from __future__ import annotations

import math
import os
import select
import time
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import NoScriptError, RedisError

from poolrt.brokers.redis.failures import breaks_connection, translated

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from poolrt.brokers.redis.address import Address
    from poolrt.brokers.redis.scripts import Script
    from poolrt.errors import BrokerError

Argument = bytes | str | int | float

_FRESH: Final = 0.05


class Channel:
    """One connection of this process.

    Attributes:
        unanswered: how many commands were sent on the present connection and not answered.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tag = b"{" + address.namespace.encode() + b"}"
        self._connection: AbstractConnection | None = None
        self._pid = 0
        self._loaded: set[bytes] = set()
        self._allowed = 0.0
        self._rests_since = -math.inf
        self.unanswered = 0

    @property
    def is_open(self) -> bool:
        """Whether there is a connection of this process."""
        return self._connection is not None and self._pid == os.getpid()

    def open(self, timeout: float) -> None:
        """Connect, if there is no connection; raises BrokerError."""
        if not self.is_open:
            self.close()
            self._connection = self._address.connect(timeout)
            self._pid = os.getpid()
            self._loaded.clear()
            self._allowed = 0.0

    def fileno(self) -> int:
        """The socket's descriptor; only while it is open."""
        connection = self._connection
        assert connection is not None
        sock: Any = connection._sock  # noqa: SLF001  redis-py has no public name for what select needs
        return int(sock.fileno())

    def has_answer(self) -> bool:
        """Whether something can be read without waiting; raises BrokerError."""
        if self._connection is None:
            return False
        try:
            return bool(self._connection.can_read(0))
        except (RedisError, OSError) as error:
            raise self._failed(error) from error

    def has_news(self) -> bool:
        """Whether its socket has something to read, if only that it was closed; reads nothing. While it is open."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def allow(self, seconds: float) -> None:
        """Let each send and receive take so long from now on; 1 % more or less is no other time."""
        if self._connection is not None and abs(seconds - self._allowed) > 0.01 * self._allowed:
            sock: Any = self._connection._sock  # noqa: SLF001  see fileno
            sock.settimeout(max(seconds, 0.001))
            self._allowed = seconds

    def rests(self) -> None:
        """It is idle from now on."""
        self._rests_since = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether it was used just now, so that it need not be asked whether the server has closed it."""
        return time.monotonic() - self._rests_since < _FRESH

    def close(self) -> None:
        """Drop the connection; what was not answered never will be."""
        connection, self._connection = self._connection, None
        self.unanswered = 0
        if connection is not None:
            connection.disconnect()

    # ---- commands

    def send(self, *command: Argument) -> None:
        """Send a command on the open connection, without waiting for its answer."""
        assert self._connection is not None
        try:
            self._connection.send_packed_command(self._connection.pack_command(*command), check_health=False)
        except (RedisError, OSError) as error:
            raise self._failed(error) from error
        self.unanswered += 1

    def receive(self) -> Any:
        """The answer to the oldest command without one: bytes, an int, a list of these, or None."""
        assert self._connection is not None
        try:
            answer = self._connection.read_response()
        except NoScriptError:
            self.unanswered -= 1
            raise
        except (RedisError, OSError, ValueError) as error:
            raise self._failed(error) from error
        self.unanswered = max(0, self.unanswered - 1)  # a subscription's messages answer nothing
        return answer

    def ask(self, *command: Argument) -> Any:
        """``send`` and ``receive``."""
        self.send(*command)
        return self.receive()

    def load(self, script: Script) -> None:
        """Have the server know a script, so that ``send_script`` needs no second try on this connection."""
        if script.sha not in self._loaded:
            self.ask("SCRIPT", "LOAD", script.text)
            self._loaded.add(script.sha)

    def send_script(self, script: Script, *arguments: Argument) -> None:
        """Run a loaded script; not awaited."""
        self.send(b"EVALSHA", script.sha, 1, self._tag, *arguments)

    def call(self, script: Script, *arguments: Argument) -> Any:
        """Run a script and give its answer; nothing else may be unanswered."""
        try:
            return self.ask(b"EVALSHA", script.sha, 1, self._tag, *arguments)
        except NoScriptError:
            return self.ask(b"EVAL", script.text, 1, self._tag, *arguments)

    def _failed(self, error: Exception) -> BrokerError:
        """Ours for theirs; the connection is dropped unless the server only refused this one command."""
        if breaks_connection(error):
            self.close()
        else:
            self.unanswered -= 1
        return translated(error, self._address.url)


class Deadline:
    """When a call must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that remain; negative when it is over."""
        return self._end - time.monotonic()
