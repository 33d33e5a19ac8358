"""What an address says, and that no text it makes carries the password. Nothing is opened."""

from __future__ import annotations

import os
import pickle
import sys
import types

import pytest

from poolrt.app.app import App
from poolrt.app.location import load, locate
from poolrt.brokers.redis.address import SCHEMES, Address, Tls
from poolrt.brokers.redis.endpoint import Endpoint
from poolrt.brokers.redis.secrets import Secret
from poolrt.brokers.urls import broker_from_url
from poolrt.errors import BrokerError, ConfigurationError

SECRET = "ge-heim"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"kind": "server", "endpoints": (Endpoint("localhost", 6379),), "db": 0, "tls": None}),
        ("redis://Host:7/3", {"endpoints": (Endpoint("host", 7),), "db": 3}),
        ("redis://host?db=3", {"db": 3}),
        ("valkey://host", {"kind": "server", "tls": None}),
        ("redis://[::1]:7", {"endpoints": (Endpoint("::1", 7),)}),
        ("redis://[::1]", {"endpoints": (Endpoint("::1", 6379),)}),
        ("rediss://host", {"kind": "server", "tls": Tls()}),
        ("valkeys://host?verify=ca", {"tls": Tls(verify="ca")}),
        ("unix:///run/a%20b.sock?db=1", {"kind": "socket", "endpoints": (Endpoint("/run/a b.sock", 0),), "db": 1}),
        (
            "redis+sentinel://a,b:7/main/2",
            {
                "kind": "sentinel",
                "endpoints": (Endpoint("a", 26379), Endpoint("b", 7)),
                "service": "main",
                "db": 2,
                "tls": None,
            },
        ),
        ("rediss+sentinel://a/main", {"kind": "sentinel", "tls": Tls(), "db": 0}),
        ("redis+cluster://a,[::1]:7", {"kind": "cluster", "endpoints": (Endpoint("a", 6379), Endpoint("::1", 7))}),
        ("valkeys+cluster://a", {"kind": "cluster", "tls": Tls()}),
        ("redis://h?namespace=My.app-1_x", {"namespace": "My.app-1_x"}),
        ("redis://h", {"namespace": "poolrt", "timeout": 5.0, "retry": True}),
        ("redis://h?timeout=250ms&retry=no", {"timeout": 0.25, "retry": False}),
    ],
)
def test_each_form_is_read(url, expected):
    """Every scheme, with its defaults."""
    address = Address.parse(url)
    assert {name: getattr(address, name) for name in expected} == expected


def test_every_scheme_makes_a_broker():
    """``broker_from_url`` and ``Address`` know the same schemes; nothing is opened."""
    for scheme in SCHEMES:
        place = {"unix": "/run/s"}.get(scheme, "host/main" if "sentinel" in scheme else "host")
        assert broker_from_url(f"{scheme}://{place}").url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkey://:ge-heim@HOST", "redis://host:6379/0"),
        ("redis://ann:ge-heim@h:7/3?timeout=5s", "redis://ann@h:7/3"),
        ("redis://h?db=3&username=ann&password_env=PW", "redis://ann@h:6379/3?password_env=PW"),
        ("redis://h?retry=no&timeout=1m&namespace=a", "redis://h:6379/0?namespace=a&timeout=60&retry=no"),
        ("unix://:ge-heim@/run/a%20b?db=1", "unix:///run/a%20b?db=1"),
        ("redis+sentinel://:ge-heim@a,b/main", "redis+sentinel://a:26379,b:26379/main/0"),
        (
            "valkeys+cluster://[::1]?verify=none&ca_file=/a%26b",
            "rediss+cluster://[::1]:6379?ca_file=/a%26b&verify=none",
        ),
    ],
)
def test_the_url_shown_is_one_for_every_spelling_and_without_the_password(url, shown):
    """It reads as the same address, password apart; the secret one as exactly the same."""
    address = Address.parse(url)
    assert address.url == shown
    assert SECRET not in repr(address) + str(address)
    again = Address.parse(address.secret_url)
    assert again.secret_url == address.secret_url
    assert again == address


def test_a_password_of_any_characters_comes_back():
    """What is percent-encoded is decoded, and encoded again for another process."""
    address = Address.parse("redis://a%40b:%2F%3F%23%40%25%3A@h")
    assert (address.login.user, address.login.password.read("")) == ("a@b", "/?#@%:")
    assert Address.parse(address.secret_url).login.password.read("") == "/?#@%:"


def test_the_store_is_one_for_all_who_share_it():
    """User, timeout and TLS options do not make it another; database and namespace do."""
    same = ["redis://h", "valkey://ann:x@H:6379/0?timeout=1s", "rediss://h?verify=none"]
    assert len({Address.parse(url).store for url in same}) == 1
    other = ["redis://h", "redis://h/1", "redis://h?namespace=a", "redis://h:7", "redis+sentinel://h:6379/main"]
    assert len({Address.parse(url).store for url in other}) == len(other)


def test_files_are_absolute(monkeypatch, tmp_path):
    """Another process may have another folder."""
    monkeypatch.chdir(tmp_path)
    address = Address.parse("rediss://h?password_file=pw&ca_file=./ca.pem")
    assert address.login.password.file == str(tmp_path / "pw")
    assert address.tls == Tls(ca_file=os.path.join(tmp_path, "ca.pem"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://h", "starts with 'http'"),
        ("redis://h?colour=red", "unknown option colour; known: db, namespace"),
        ("redis://h?ca_file=/a", "over TLS, write rediss"),
        ("redis://h?sentinel_username=a", "unknown option"),
        ("redis+cluster://h?db=1", "unknown option db"),
        ("redis+cluster://h/1", "no databases"),
        ("redis+sentinel://h", "name the service"),
        ("redis+sentinel:///main", "no host"),
        ("redis://a,b", "several hosts"),
        ("redis://h/x", "not a number"),
        ("redis://h/1?db=1", "twice"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis://h:0", "1 to 65535"),
        ("redis://h:99999", "1 to 65535"),
        ("redis://h?namespace=a{b}", "namespace"),
        ("redis://h?namespace=", "no value"),
        ("redis://h?timeout=0", "more than zero"),
        ("redis://h?timeout=soon", "not a duration"),
        ("redis://h?retry=maybe", "yes or no"),
        ("rediss://h?verify=perhaps", "full, ca or none"),
        ("rediss://h?key_file=/a", "needs cert_file"),
        ("unix://run/s", "absolute path"),
        ("redis://:a@h?password_env=B", "password once"),
        ("redis://a:b@h?username=c", "user is given twice"),
    ],
)
def test_a_wrong_address_says_what_is_wrong(url, says):
    """In one line."""
    with pytest.raises(ConfigurationError, match=r"\A[^\n]*\Z") as caught:
        Address.parse(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://ge-heim@h",  # taken for a user, which would be shown
        "redis://ge-heim:6a6@@h:x",
        "redis://:ge-heim",  # no @
        "redis://user:ge-heim/0",
        "redis://:ge/ge-heim@h",
        "redis://:ge?ge-heim@h",
        "redis://:ge?ge-heim=1@h",
        "redis://:ge#ge-heim@h",
        "redis://:ge-heim@h:port",
        "redis://:ge-heim@h?colour=1",
        "redis://:ge-heim@[::1",
        "redis://:[ge-heim]@h:x",
        "redis://:ge-heim@h?password_file=/x",
        "redis+sentinel://:ge-heim@h",
        "redis+sentinel://user:12/ge-heim@h",
        "unix://:ge-heim@",
        "redis:/:ge-heim@h",
        "ge-heim@h",
        "redis:ge-heim",
        "redis://u:6a6?ge-heim",
        "redis://u:6a6?ge-heim=1",
    ],
)
def test_no_error_carries_what_may_be_the_password(url):
    """Not in its text, and not in what it came from, which a traceback shows."""
    with pytest.raises(ConfigurationError) as caught:
        broker_from_url(url)
    for error in _chain(caught.value):
        assert SECRET not in str(error) + repr(error)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_a_secret_is_read_when_it_is_used(tmp_path, monkeypatch):
    """A file that is replaced gives the new password; a variable too."""
    file = tmp_path / "pw"
    secret = Secret(file=str(file))
    for text, password in (("one\n", "one"), ("two\r\n", "two"), (" three ", " three ")):
        file.write_text(text)
        assert secret.read("redis://h") == password
    monkeypatch.setenv("A_PASSWORD", SECRET)
    assert Secret(env="A_PASSWORD").read("redis://h") == SECRET
    assert SECRET not in repr(Secret(SECRET)) + repr(Secret(env="A_PASSWORD"))


def test_a_secret_that_is_not_there_is_named(tmp_path, monkeypatch):
    """By file or variable, with the address."""
    monkeypatch.delenv("A_PASSWORD", raising=False)
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("\n")
    binary.write_bytes(b"ge-heim\xff")
    for secret, says in (
        (Secret(file=str(tmp_path / "none")), "none: No such file"),
        (Secret(file=str(empty)), "must hold one line"),
        (Secret(file=str(binary)), "must hold one line"),
        (Secret(env="A_PASSWORD"), "A_PASSWORD holds no password"),
    ):
        with pytest.raises(BrokerError, match=says) as caught:
            secret.read("redis://h")
        assert "redis://h" in str(caught.value)
        assert all(SECRET not in str(error) + repr(error) for error in _chain(caught.value))


# ---- the app


def test_an_app_shows_no_password_and_keeps_it_by_value():
    """Its repr is for bug reports; a copy in another process opens the same broker."""
    app = App("shop", "redis://:ge-heim@h/3")
    assert SECRET not in repr(app) + repr(app.broker) + app.broker.url
    copy = pickle.loads(pickle.dumps(app))
    assert copy.broker.secret_url == "redis://:ge-heim@h:6379/3"


@pytest.mark.parametrize("importable", [True, False])
def test_a_location_carries_the_password_and_shows_it_nowhere(importable, monkeypatch):
    """The template opens the program's broker, by import or by value; a traceback with locals does not tell how."""
    module = types.ModuleType("shop_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    app = App("shop", "redis://:ge-heim@h/3")
    app.defined_in = module.__name__
    module.app = app if importable else None
    location = locate(app)
    assert location.kind == ("import" if importable else "value")
    assert SECRET not in repr(location) + str(location) + repr(location.__rich_repr__())
    module.app = App("shop", "redis://:another@h/3")  # what the module makes by itself, elsewhere
    assert load(location).broker.secret_url == app.broker.secret_url


def test_a_wrong_backend_is_told_without_its_password():
    """It is shown as the broker's own URL is."""
    with pytest.raises(ConfigurationError, match="own store") as caught:
        App("shop", "redis://h", backend="redis://:ge-heim@other")
    assert SECRET not in str(caught.value)
    assert App("shop", "redis://:ge-heim@h", backend="redis://:ge-heim@h").broker.url == "redis://h:6379/0"
