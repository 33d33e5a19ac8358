"""Each of a server's refusals and each of the system's errors becomes the error that says what to do."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from redis import exceptions as told
from redis._parsers.base import BaseParser

from poolrt.brokers.redis.failures import breaks_connection, code_of, translated
from poolrt.errors import (
    BrokerBusy,
    BrokerCorrupt,
    BrokerDamaged,
    BrokerError,
    BrokerFull,
    BrokerIncompatible,
    BrokerReadOnly,
    BrokerUnreachable,
)

WHERE = "redis://h:6379/0"

# What the server says, what it becomes, a word of the advice, whether the connection must go.
SAID = [
    ("LOADING Redis is loading the dataset in memory", BrokerBusy, "try again", True),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL.", BrokerBusy, "SCRIPT KILL", False),
    ("TRYAGAIN Multiple keys request during rehashing of slot", BrokerBusy, "moved", False),
    ("CLUSTERDOWN Hash slot not served", BrokerBusy, "CLUSTER INFO", False),
    ("MASTERDOWN Link with MASTER is down", BrokerBusy, "master", True),
    ("NOREPLICAS Not enough good replicas to write.", BrokerBusy, "min-replicas", False),
    ("ERR max number of clients reached", BrokerBusy, "maxclients", True),
    ("READONLY You can't write against a read only replica.", BrokerReadOnly, "master", True),
    ("UNBLOCKED force unblock from blocking operation, instance state changed", BrokerReadOnly, "replica", True),
    ("OOM command not allowed when used memory > 'maxmemory'.", BrokerFull, "maxmemory", False),
    ("MISCONF Redis is configured to save RDB snapshots, but", BrokerFull, "disk", False),
    ("MOVED 3999 127.0.0.1:6381", BrokerUnreachable, "moved", True),
    ("ASK 3999 127.0.0.1:6381", BrokerUnreachable, "moving", True),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", BrokerDamaged, "did not put there", False),
    ("NOAUTH Authentication required.", BrokerError, "wants a password", True),
    ("NOAUTH HELLO must be called with the client already authenticated, otherwise", BrokerError, "wants a", True),
    ("WRONGPASS invalid username-password pair or user is disabled.", BrokerError, "refused the user name", True),
    ("NOPERM this user has no permissions to run the 'eval' command", BrokerError, "ACL LOG", False),
    ("DENIED Redis is running in protected mode because", BrokerError, "protected mode", False),
    ("CROSSSLOT Keys in request don't hash to the same slot", BrokerError, "redis+cluster", False),
    ("ERR SELECT is not allowed in cluster mode", BrokerError, "redis+cluster", False),
    ("ERR DB index is out of range", BrokerError, "no database", False),
    ("ERR unknown command 'EVALSHA'", BrokerIncompatible, "6.2", False),
    ("ERR something new", BrokerError, "refused a command: something new", False),
    # Out of a script: as version 7 and later tells it, and as 6.2 does.
    (
        "OOM command not allowed when used memory > 'maxmemory'. script: f1, on @user_script:1.",
        BrokerFull,
        "max",
        False,
    ),
    ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", BrokerFull, "max", False),
    ("ERR Error running script (call to f_1): @user_script: 7: WRONGTYPE Operation", BrokerDamaged, "did not", False),
    ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't", BrokerReadOnly, "master", True),
    (
        "ERR Error running script (call to f_1): @user_script:3: attempt to index nil",
        BrokerError,
        "to index nil",
        False,
    ),
]


@pytest.mark.parametrize(("said", "kind", "advice", "breaks"), SAID, ids=lambda value: str(value)[:30])
def test_what_the_server_says(said, kind, advice, breaks):
    """As redis-py parses it: of which class, with which advice, and whether the connection goes."""
    error = BaseParser.parse_error(said)
    failure = translated(error, WHERE)
    assert type(failure) is kind
    assert str(failure).startswith(f"{WHERE}: ")
    assert advice in str(failure)
    assert "\n" not in str(failure)
    assert breaks_connection(error) is breaks


def _from_system(error, kind=told.ConnectionError):
    """As redis-py raises it: the system's error is its context."""
    try:
        try:
            raise error
        except OSError as inner:
            raise kind(f"Error while reading from h:1 : {inner.args}")  # noqa: B904
    except told.RedisError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "nothing listens there"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "nothing listens there"),
        (PermissionError(errno.EACCES, "Permission denied"), "permissions"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot be resolved"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (TimeoutError("timed out"), "did not answer in time"),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), "TLS handshake"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_the_system_says(error, advice):
    """Bare, and inside redis-py's own errors: unreachable, with the reason, and the connection goes."""
    for met in (
        error,
        _from_system(error, told.TimeoutError if isinstance(error, TimeoutError) else told.ConnectionError),
    ):
        failure = translated(met, WHERE)
        assert type(failure) is BrokerUnreachable
        assert str(failure).startswith(f"{WHERE}: ")
        assert advice in str(failure)
        assert breaks_connection(met)


def test_what_the_caller_was_handling_is_not_the_reason():
    """A task may enqueue while it handles an error of its own."""
    try:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    except ConnectionRefusedError:
        failure = translated(_raised(told.TimeoutError("Timeout reading from h:1")), WHERE)
        assert "did not answer in time" in str(failure)
        failure = translated(_raised(told.ConnectionError("max attempts")), WHERE)
        assert "max attempts" in str(failure)


def _raised(error):
    try:
        raise error
    except told.RedisError as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        told.TimeoutError("Timeout reading from h:1"),
        told.ConnectionError("Connection closed by server."),
        told.ConnectionError("Error"),
    ],
)
def test_redis_py_says_it_alone(error):
    """Without the system's error behind it."""
    assert type(translated(error, WHERE)) is BrokerUnreachable
    assert breaks_connection(error)


def test_what_makes_no_sense_is_told_and_breaks_the_connection():
    """An answer out of step, or an error of ours: nothing further may be read there."""
    for error in (told.InvalidResponse("Protocol Error: b'x'"), ValueError("int of 'x'")):
        failure = translated(error, WHERE)
        assert type(failure) is BrokerError
        assert type(error).__name__ in str(failure)
        assert breaks_connection(error)


def test_the_brokers_own_errors_pass():
    """A call inside a call translates once."""
    error = BrokerCorrupt("x")
    assert translated(error, WHERE) is error
    assert code_of(error) == ""


def test_a_long_or_many_lined_text_is_one_line():
    """A traceback of the server's Lua has several."""
    failure = translated(told.ResponseError("a\nb" * 500), WHERE)
    assert "\n" not in str(failure)
    assert len(str(failure)) < 300
