"""From what a server, redis-py and the operating system report to the broker's own errors, each saying what to do."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from redis import exceptions as told

from poolrt.errors import (
    BrokerBusy,
    BrokerDamaged,
    BrokerError,
    BrokerFull,
    BrokerIncompatible,
    BrokerReadOnly,
    BrokerUnreachable,
)

_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]+)\b")
"""Before version 7 a script's failed call is told inside ``ERR Error running script (…): @user_script:1: -OOM …``."""

_CODE_OF_CLASS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (told.OutOfMemoryError, "OOM"),
    (told.ReadOnlyError, "READONLY"),
    (told.BusyLoadingError, "LOADING"),
    (told.NoPermissionError, "NOPERM"),
    (told.MovedError, "MOVED"),  # before its base
    (told.AskError, "ASK"),
    (told.TryAgainError, "TRYAGAIN"),
    (told.MasterDownError, "MASTERDOWN"),  # before its base
    (told.ClusterDownError, "CLUSTERDOWN"),
    (told.ClusterCrossSlotError, "CROSSSLOT"),
    (told.NoScriptError, "NOSCRIPT"),
    (told.AuthenticationError, "WRONGPASS"),
    (told.AuthenticationWrongNumberOfArgsError, "WRONGPASS"),
)
"""redis-py takes the code off an error that it has a class for."""

_WANTS_LOGIN: Final = re.compile(r"^Authentication required|must be called with the client already authenticated")
"""Both refusals come as one class of redis-py's."""

_SAID: Final[dict[str, tuple[type[BrokerError], str]]] = {
    "LOADING": (BrokerBusy, "the server is loading its data; try again"),
    "BUSY": (BrokerBusy, "the server is busy with a script; try again, or end it with SCRIPT KILL"),
    "TRYAGAIN": (BrokerBusy, "the namespace's slot is being moved to another node; try again"),
    "CLUSTERDOWN": (BrokerBusy, "the Cluster is down or a slot has no master; see CLUSTER INFO"),
    "MASTERDOWN": (BrokerBusy, "this replica has lost its master; try again after the failover"),
    "NOREPLICAS": (BrokerBusy, "too few replicas are connected (min-replicas-to-write); bring them back"),
    "READONLY": (BrokerReadOnly, "the server is a replica; connect to its master, or through redis+sentinel://"),
    "UNBLOCKED": (BrokerReadOnly, "the server was made a replica; connect again"),
    "OOM": (BrokerFull, "the server has reached its maxmemory; raise it, or let queues and results drain"),
    "MISCONF": (BrokerFull, "the server cannot save to its disk and refuses writes; make room there, see its log"),
    "MOVED": (BrokerUnreachable, "the namespace's slot has moved to another node; connect again"),
    "ASK": (BrokerUnreachable, "the namespace's slot is moving to another node; connect again"),
    "WRONGTYPE": (BrokerDamaged, "a key of the namespace holds what poolrt did not put there"),
    "NOAUTH": (BrokerError, "the server wants a password; give user:password@, password_file= or password_env="),
    "WRONGPASS": (BrokerError, "the server refused the user name or the password; check both"),
    "NOPERM": (BrokerError, "the user may not run a command or touch a key that poolrt needs; see ACL LOG"),
    "DENIED": (BrokerError, "the server is in protected mode: give it a password, or bind it to loopback only"),
    "CROSSSLOT": (BrokerError, "the server is a Cluster; write redis+cluster://"),
}

_DROP: Final = frozenset({"READONLY", "UNBLOCKED", "MOVED", "ASK", "MASTERDOWN", "LOADING", "NOAUTH", "WRONGPASS"})

_TEXTS: Final[tuple[tuple[str, type[BrokerError], str], ...]] = (
    ("max number of clients reached", BrokerBusy, "the server takes no more connections; raise its maxclients"),
    ("DB index is out of range", BrokerError, "the server has no database of that number; see its databases"),
    ("SELECT is not allowed in cluster mode", BrokerError, "the server is a Cluster; write redis+cluster://"),
    ("Connection closed by server", BrokerUnreachable, "the server closed the connection (a TLS port wants rediss://)"),
    ("would overflow", BrokerDamaged, "a counter of the namespace is no number of ours"),
    ("value is not an integer", BrokerDamaged, "a counter of the namespace is no number"),
    ("unknown command", BrokerIncompatible, "the server lacks a command; poolrt needs Redis 6.2 or later, or Valkey"),
)


def code_of(error: BaseException) -> str:
    """The server's code: ``OOM`` of ``-OOM command not allowed``, also out of a script; empty if it is no server's."""
    if not isinstance(error, told.RedisError):
        return ""
    text = str(error)
    inside = _IN_SCRIPT.search(text)
    if inside is not None:
        return inside[1]
    for kind, code in _CODE_OF_CLASS:
        if isinstance(error, kind):
            return "NOAUTH" if code == "WRONGPASS" and _WANTS_LOGIN.search(text) else code
    first = text.partition(" ")[0]
    return first if isinstance(error, told.ResponseError) and first.isupper() else ""


def breaks_connection(error: BaseException) -> bool:
    """Whether the connection must not be used again: it broke, its answers may be out of step, or the server behind it
    is no longer the one to talk to."""
    if isinstance(error, told.ResponseError):
        return code_of(error) in _DROP
    return True


def translated(error: BaseException, where: str) -> BrokerError:
    """The broker's error for ``error``, met at the address ``where``; one that is already the broker's is returned."""
    if isinstance(error, BrokerError):
        return error
    code = code_of(error)
    if code in _SAID:
        kind, text = _SAID[code]
        return kind(f"{where}: {text} ({code})")
    said = str(error)
    for part, kind, text in _TEXTS:
        if part in said:
            return kind(f"{where}: {text}")
    if isinstance(error, told.ResponseError):
        return BrokerError(f"{where}: the server refused a command: {_one_line(said)}")
    return _of_the_network(error, where)


def _of_the_network(error: BaseException, where: str) -> BrokerError:
    for cause in _causes(error):
        said = _of_the_system(cause)
        if said:
            return BrokerUnreachable(f"{where}: {said}")
    if isinstance(error, told.ConnectionError | OSError):
        return BrokerUnreachable(f"{where}: the connection was lost ({_one_line(str(error))})")
    return BrokerError(f"{where}: {_one_line(str(error))} ({type(error).__name__})")


def _of_the_system(error: BaseException) -> str:
    """What it means and what to do; empty if it is no error of the system's. The narrow classes come first."""
    said = ""
    match error:
        case TimeoutError() if "handshake" in str(error):
            said = "the server did not answer the TLS handshake in time; is it a TLS port?"
        case ssl.SSLCertVerificationError():
            why = getattr(error, "verify_message", "") or _one_line(str(error))
            said = f"the server's certificate is not trusted ({why}); give ca_file=, or check its name"
        case ssl.SSLError():
            why = getattr(error, "reason", "") or _one_line(str(error))
            said = f"TLS failed ({why}); is it a TLS port, does it want cert_file=?"
        case socket.gaierror():
            said = f"the host's name cannot be resolved ({error.strerror}); check it"
        case ConnectionRefusedError() | FileNotFoundError():
            said = f"nothing listens there ({error.strerror}); start the server"
        case TimeoutError() | told.TimeoutError():
            said = "the server did not answer in time; is it stopped, or the network cut?"
        case PermissionError():
            said = f"the socket may not be opened ({error.strerror}); check its permissions"
        case OSError(strerror=str(text)):
            said = f"the connection failed ({text})"
    return said


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The system's error that redis-py's was made of, then the error itself. A context may also be anything that the
    caller was handling when it called us, so it counts only if the error quotes it."""
    inner = error.__cause__ or error.__context__
    if isinstance(inner, OSError) and isinstance(error, told.RedisError):
        quoted = bool(inner.args) and str(inner.args[-1]) in str(error)
        if quoted or (isinstance(error, told.TimeoutError) and isinstance(inner, TimeoutError)):
            yield inner
    yield error


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
