"""Connections that tests make of an address, refusals they expect, and servers that say what a real one would not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolrt.brokers.redis.address import Address
from poolrt.errors import BrokerError

SECRET = "ge-heim"
WAIT = 10.0


@contextlib.contextmanager
def connected(url: str, timeout: float = WAIT) -> Iterator[Any]:
    """A connection of this address."""
    connection = Address.parse(url).connect(timeout)
    try:
        yield connection
    finally:
        connection.disconnect()


def ask(connection: Any, *command: object) -> Any:
    """One command's answer."""
    connection.send_command(*command, check_health=False)
    return connection.read_response()


def answer(url: str, *command: object) -> Any:
    """The same on a connection of its own."""
    with connected(url) as connection:
        return ask(connection, *command)


def refused(url: str, kind: type[BrokerError], says: str, timeout: float = WAIT) -> BrokerError:
    """Connecting raises exactly this, in one line that begins with the address and holds no password."""
    began = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        Address.parse(url).connect(timeout)
    assert time.monotonic() - began < timeout + 1
    error = caught.value
    assert type(error) is kind, error
    assert says in str(error)
    assert str(error).startswith(Address.parse(url).url)
    assert "\n" not in str(error)
    told: BaseException | None = error
    while told is not None:
        assert SECRET not in str(told) + repr(told)
        told = told.__cause__ or told.__context__
    return error


@contextlib.contextmanager
def fakes() -> Iterator[Callable[..., int]]:
    """``listen(answer, …)``: a server that answers whatever it is sent with these bytes in turn; its port."""
    with contextlib.ExitStack() as held:

        def listen(*answers: bytes) -> int:
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = int(listener.getsockname()[1])
            told = [answer.replace(b"OWN-PORT", b"%d" % port) for answer in answers]
            thread = threading.Thread(target=serve, args=(listener, told))
            thread.start()
            held.callback(thread.join)
            held.callback(lambda: listener.shutdown(socket.SHUT_RDWR))
            return port

        def serve(listener: socket.socket, answers: list[bytes]) -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as connection:
                        for answer in answers:
                            connection.recv(4096)
                            connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(4096):  # closed with bytes unread, it would take its answers back
                            pass

        yield listen


def hello(**facts: str) -> bytes:
    """The answer to HELLO."""
    return array(*(word for pair in facts.items() for word in pair))


def array(*texts: object) -> bytes:
    """Several texts as one answer."""
    words = [str(text).encode() for text in texts]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
