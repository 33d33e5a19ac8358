"""Several servers that work as one: a master and its replica under Sentinels, a Cluster."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence

from tests.servers import Server, Servers, free_port, query_of, until

SLOTS = 16384


class Sentinels:
    """A service named ``main``: fails over about a second after its master is killed."""

    service = "main"

    def __init__(self, where: Servers, count: int, options: dict[str, str]) -> None:
        password = options.get("requirepass", "")
        own = {"sentinel_password": options.pop("sentinel_password", "")}
        if password:
            options = {**options, "masterauth": password}
        self.master = where.server(repl_diskless_sync_delay="0", **options)
        self.replica = where.server(replicaof=f"127.0.0.1 {self.master.port}", **options)
        lines = [
            f"sentinel monitor {self.service} 127.0.0.1 {self.master.port} {count // 2 + 1}",
            f"sentinel down-after-milliseconds {self.service} 300",
            f"sentinel failover-timeout {self.service} 2000",
            *([f"sentinel auth-pass {self.service} {password}"] if password else []),
        ]
        secret = {"requirepass": own["sentinel_password"]} if own["sentinel_password"] else {}
        self.sentinels = [where.server(sentinel=lines, **secret) for _ in range(count)]
        for sentinel in self.sentinels:
            sentinel.call("SENTINEL", "DEBUG", "info-period", 100, "ask-period", 100, "publish-period", 100)
        until(self._ready, "the Sentinels know the master's replica and each other")

    def _ready(self) -> bool:
        return all(self._knows(sentinel) for sentinel in self.sentinels)

    def _knows(self, sentinel: Server) -> bool:
        state = _pairs(sentinel.call("SENTINEL", "MASTER", self.service))
        replicas = [_pairs(found) for found in sentinel.call("SENTINEL", "REPLICAS", self.service)]
        return int(state["num-other-sentinels"]) == len(self.sentinels) - 1 and [
            replica["master-link-status"] for replica in replicas
        ] == ["ok"]

    def url(self, db: int = 0, *, password: str = "", **options: object) -> str:
        """The address that clients take."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        who = f":{password}@" if password else ""
        return f"redis+sentinel://{who}{hosts}/{self.service}/{db}" + query_of(options)

    def await_failover(self) -> None:
        """Wait until the replica is the master, and every Sentinel says so."""
        until(lambda: self.replica.call("ROLE")[0] == "master", "the replica is the master")
        until(lambda: all(self._named(each) == self.replica.port for each in self.sentinels), "the Sentinels say so")

    def _named(self, sentinel: Server) -> int:
        return int(sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])


def _pairs(answer: list[str]) -> dict[str, str]:
    return dict(zip(answer[::2], answer[1::2], strict=True))


def slot_of(tag: str) -> int:
    """The slot of every key with this hash tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


class Cluster:
    """Masters without replicas."""

    def __init__(self, where: Servers, count: int, patience: int) -> None:
        self.nodes = [
            where.server(cluster_enabled="yes", cluster_node_timeout=str(patience), cluster_port=str(free_port()))
            for _ in range(count)
        ]
        bounds = [SLOTS * number // count for number in range(count + 1)]
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.call("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.call("CLUSTER", "MEET", "127.0.0.1", first.port, first.options["cluster_port"])
        until(self._ready, "every node of the Cluster knows every slot's master")

    def _ready(self) -> bool:
        return all(
            "cluster_state:ok" in (said := str(node.call("CLUSTER", "INFO")))
            and f"cluster_known_nodes:{len(self.nodes)}" in said
            for node in self.nodes
        )

    def url(self, nodes: Sequence[Server] = (), **options: object) -> str:
        """The address that clients take; by these nodes only, if any are named."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes or self.nodes)
        return f"redis+cluster://{hosts}" + query_of(options)

    def owner(self, namespace: str) -> Server:
        """The node that keeps this namespace, as the nodes see it themselves."""
        slot = slot_of(namespace)
        return next(node for node in self.nodes if slot in _own_slots(node))

    def begin_move(self, namespace: str, to: Server) -> None:
        """Open the slot for its move: from now on both nodes have a part of it."""
        source, slot = self.owner(namespace), slot_of(namespace)
        to.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.call("CLUSTER", "MYID"))
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", to.call("CLUSTER", "MYID"))

    def end_move(self, namespace: str, to: Server) -> None:
        """Take the keys over, and close the slot."""
        source, slot = self.owner(namespace), slot_of(namespace)
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        new = to.call("CLUSTER", "MYID")
        for node in (to, source, *(node for node in self.nodes if node not in {to, source})):
            node.call("CLUSTER", "SETSLOT", slot, "NODE", new)

    def move(self, namespace: str, to: Server) -> None:
        """Move the namespace's slot, keys and all, to another node."""
        self.begin_move(namespace, to)
        self.end_move(namespace, to)


def _own_slots(node: Server) -> set[int]:
    mine = next(line for line in str(node.call("CLUSTER", "NODES")).splitlines() if "myself" in line)
    found: set[int] = set()
    for part in mine.split()[8:]:
        if not part.startswith("["):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found
