"""Every form of address of one server: what it connects to, what it refuses, and what it says then."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from redis.exceptions import ResponseError

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.address import Address
from poolrt.errors import BrokerBusy, BrokerError, BrokerFull, BrokerIncompatible, BrokerReadOnly, BrokerUnreachable
from poolrt.message import Enqueue, new_task_id
from tests.brokers.connections import SECRET, WAIT, answer, ask, connected, hello, refused
from tests.servers import tls_binary

# ---- one server


def test_a_connection_is_ready_for_commands(redis_server):
    """Named, of its database, RESP2, bytes, kept alive, without checks of redis-py's own, and bounded."""
    with connected(redis_server.url(3), timeout=12.5) as connection:
        info = dict(pair.split(b"=", 1) for pair in ask(connection, "CLIENT", "INFO").split())
        assert (info[b"name"], info[b"db"], info[b"resp"]) == (b"poolrt", b"3", b"2")
        sock = connection._sock
        assert sock.gettimeout() == 12.5
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.health_check_interval == 0


def test_a_read_is_bounded_by_the_timeout(redis_server):
    """A server that does not answer the command is not waited for."""
    began = time.monotonic()
    with connected(redis_server.url(), timeout=0.2) as connection, pytest.raises(Exception, match="Timeout"):
        ask(connection, "BLPOP", "nothing-here", 30)
    assert time.monotonic() - began < WAIT


def test_by_socket_file(redis_server):
    """With a database."""
    assert b"db=2" in answer(redis_server.socket_url(db=2), "CLIENT", "INFO")
    refused("unix:///nowhere/s", BrokerUnreachable, "nothing listens there")


def test_by_name(redis_server, monkeypatch):
    """A name with several addresses is tried at each, within one timeout, also if the first is silent."""
    assert answer(f"valkey://localhost:{redis_server.port}", "PING") == b"PONG"
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, socket.socket() as filling:
        filling.connect(silent.getsockname())
        dead = ("127.0.0.1", 1)
        places = [dead, silent.getsockname(), ("127.0.0.1", redis_server.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connected("redis://several", timeout=3) as connection:
            assert connection._sock.getpeername() == places[-1]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:2] * 2)
        refused("redis://several", BrokerUnreachable, "did not answer in time", timeout=0.4)


def test_a_password(own_servers):
    """Of the default user and of a named one, from the URL or a file. Wrong and missing ones are told apart."""
    server = own_servers.server(requirepass=SECRET)
    server.call("ACL", "SETUSER", "ann", "on", ">two:/@", "~*", "+@all")
    server.call("ACL", "SETUSER", "bob", "on", f">{SECRET}", "~*", "+@all", "-select")
    assert answer(server.url(password=SECRET), "ACL", "WHOAMI") == b"default"
    assert answer(f"redis://ann:two%3A%2F%40@127.0.0.1:{server.port}", "ACL", "WHOAMI") == b"ann"
    refused(server.url(), BrokerError, "wants a password")
    refused(server.url(password="wr" + SECRET), BrokerError, "refused the user name or the password")
    refused(f"redis://eve:{SECRET}@127.0.0.1:{server.port}", BrokerError, "refused the user name or the password")
    refused(f"redis://bob:{SECRET}@127.0.0.1:{server.port}/1", BrokerError, "ACL LOG")
    file = server.folder / "password"
    for text in ("wrong", SECRET):  # replaced while the program runs
        file.write_text(text + "\n")
        url = server.url(password_file=file)
        if text == SECRET:
            assert answer(url, "PING") == b"PONG"
        else:
            refused(url, BrokerError, "refused the user name or the password")
    refused(server.url(password_file=server.folder / "none"), BrokerError, "cannot read the password file")


def test_a_password_of_the_environment(own_servers, monkeypatch):
    """It is read at the connect."""
    server = own_servers.server(requirepass=SECRET)
    monkeypatch.setenv("A_PASSWORD", SECRET)
    assert answer(server.url(password_env="A_PASSWORD"), "PING") == b"PONG"
    monkeypatch.delenv("A_PASSWORD")
    refused(server.url(password_env="A_PASSWORD"), BrokerError, "A_PASSWORD holds no password")


def test_a_database_that_is_not_there(redis_server):
    """It is named."""
    refused(redis_server.url(999), BrokerError, "no database of that number")


def test_nobody_listens(own_servers):
    """Also where a server was a moment ago; again there, it serves."""
    server = own_servers.server()
    server.kill()
    refused(server.url(), BrokerUnreachable, "nothing listens there")
    refused(server.socket_url(), BrokerUnreachable, "nothing listens there")
    server.start()
    assert answer(server.url(), "PING") == b"PONG"


def test_a_name_that_does_not_exist():
    """It is told as that."""
    refused("redis://nowhere.invalid", BrokerUnreachable, "cannot be resolved")


def test_a_stopped_server_is_not_waited_for(own_servers):
    """Its kernel still takes the connection."""
    server = own_servers.server()
    server.pause()
    for url in (server.url(), server.socket_url()):
        began = time.monotonic()
        refused(url, BrokerUnreachable, "did not answer in time", timeout=0.3)
        assert time.monotonic() - began < 2
    server.go_on()
    assert answer(server.url(), "PING") == b"PONG"


def test_a_server_that_takes_no_connection_is_not_waited_for(own_servers):
    """Its backlog is full: the connect itself hangs."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as held:
        path = f"{own_servers.server().folder}/full"
        listener.bind(path)
        listener.listen(0)
        while True:
            client = held.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path):
                break
        refused(f"unix://{path}", BrokerUnreachable, "", timeout=0.3)


def test_a_replica_is_not_written_to(own_servers):
    """At the connect already: what it answers may be old. Demoted later, its refusal is of the same class."""
    server = own_servers.server()
    connection = Address.parse(server.url()).connect(WAIT)
    server.call("REPLICAOF", "127.0.0.1", 1)
    refused(server.url(), BrokerReadOnly, "redis+sentinel://")
    connection.disconnect()


def test_a_server_that_runs_a_script_for_long(own_servers):
    """It still lets in, and answers nothing else."""
    server = own_servers.server(lua_time_limit="50")
    broker = RedisBroker(server.url(retry="no"), timeout=1)
    with connected(server.url()) as endless:
        endless.send_command("EVAL", "while true do end", 0, check_health=False)
        with pytest.raises(BrokerBusy, match="SCRIPT KILL"):
            broker.depth()
        server.call("SCRIPT", "KILL")
        with pytest.raises(ResponseError, match="SCRIPT KILL"):
            endless.read_response()  # now it has ended
    assert broker.depth().queued == 0
    broker.close()


def test_a_server_that_takes_no_more_connections(own_servers):
    """It says so."""
    server = own_servers.server(maxclients="64")
    with contextlib.ExitStack() as held, pytest.raises(BrokerBusy, match="maxclients"):
        for _ in range(100):
            held.enter_context(connected(server.url()))


def test_a_server_without_room(own_servers):
    """``maxmemory`` is reached inside a script."""
    server = own_servers.server(maxmemory="1", maxmemory_policy="noeviction")
    broker = RedisBroker(server.url(), timeout=1)
    with pytest.raises(BrokerFull, match="maxmemory"):
        broker.enqueue([Enqueue(new_task_id(), b"envelope", "default", 0, None)])
    broker.close()


# ---- servers of other kinds: a fake answers what none of ours would


@pytest.mark.parametrize(
    ("said", "kind", "says"),
    [
        (hello(server="redis", version="6.0.16", mode="standalone", role="master"), BrokerIncompatible, "6.0.16"),
        (hello(server="x", version="soon", mode="standalone", role="master"), BrokerIncompatible, "6.2"),
        (hello(server="redis", version="7.2.4", mode="sentinel"), BrokerError, "that is a Sentinel"),
        # Before version 6 a server quotes what it was sent, the password too.
        (
            b"-ERR unknown command `HELLO`, with args beginning with: `2`, `AUTH`, `default`, `ge-heim`, \r\n",
            BrokerIncompatible,
            "6.2",
        ),
        (b"-ERR odd: ge-heim\r\n", BrokerError, "refused a command"),
        (b"-LOADING loading the dataset\r\n", BrokerBusy, "loading"),
        (b"", BrokerUnreachable, "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", BrokerError, "Protocol"),
        (b"+OK\r\n", BrokerError, "does not answer as Redis"),
        (b"*2\r\n$3\r\nfoo\r\n", BrokerUnreachable, "closed"),
    ],
)
def test_servers_that_will_not_do(fake, said, kind, says):
    """Too old, a Sentinel, no Redis at all."""
    refused(f"redis://:{SECRET}@127.0.0.1:{fake(said)}", kind, says)


def test_a_new_enough_server(fake):
    """6.2 is."""
    port = fake(hello(server="redis", version="6.2.0", mode="standalone", role="master"))
    with connected(f"redis://127.0.0.1:{port}") as connection:
        assert connection.port == port


# ---- TLS: only an installed server speaks it


@pytest.fixture
def tls_server(own_servers, certificates):
    """Its certificate is for 127.0.0.1 and localhost."""
    return own_servers.server(program=tls_binary(), tls=certificates)


def test_tls(tls_server, certificates, monkeypatch):
    """Trusted by ``ca_file``; else refused, unless the URL says that anybody will do."""
    assert answer(tls_server.url(ca_file=certificates.ca), "PING") == b"PONG"
    assert answer(tls_server.url(verify="none"), "PING") == b"PONG"
    refused(tls_server.url(), BrokerUnreachable, "certificate is not trusted")
    refused(tls_server.url(ca_file=certificates.foreign_ca), BrokerUnreachable, "certificate is not trusted")
    refused(tls_server.url(ca_file="/nowhere"), BrokerError, "cannot use ca_file /nowhere")
    refused(tls_server.url(ca_file=certificates.ca, cert_file="/nowhere"), BrokerError, "cannot use cert_file /nowhere")
    refused(tls_server.url(scheme="redis"), BrokerUnreachable, "")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))  # the system's authorities are OpenSSL's choice
    assert answer(tls_server.url(), "PING") == b"PONG"
    refused(tls_server.url(ca_file=certificates.foreign_ca), BrokerUnreachable, "certificate is not trusted")


def test_tls_of_another_name(own_servers, certificates):
    """``verify=ca`` asks who signed it only."""
    server = own_servers.server(program=tls_binary(), tls=certificates.of_another_name())
    refused(server.url(ca_file=certificates.ca), BrokerUnreachable, "certificate is not trusted")
    assert answer(server.url(ca_file=certificates.ca, verify="ca"), "PING") == b"PONG"


def test_tls_with_a_clients_certificate(own_servers, certificates):
    """A server that asks for it refuses those without."""
    server = own_servers.server(program=tls_binary(), tls=certificates, tls_auth_clients="yes")
    mine = {"cert_file": certificates.client_cert, "key_file": certificates.client_key}
    assert answer(server.url(ca_file=certificates.ca, **mine), "PING") == b"PONG"
    refused(server.url(ca_file=certificates.ca), BrokerUnreachable, "")


def test_tls_to_a_server_without(redis_server):
    """It waits for more of what it takes for a command."""
    refused(redis_server.url(scheme="rediss"), BrokerUnreachable, "TLS handshake", timeout=0.3)
