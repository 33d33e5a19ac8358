"""Three nodes and a server, each in a network namespace: work is shared, nodes are lost and come back, nothing is lost.

    python -m stress.cluster [--small | --full] [--seed N] [--acts cut,freeze] [--lease SECONDS]

    sender ──┐                ┌── a   stops running tasks when its lease runs out
             ├── switch ──────┼── b   the same
    server ──┘                └── c   lets them go on (on_lease_lost = keep)

The exit code is 0 if every claim held, 1 if one did not, and 77 (skipped) where there can be no namespaces.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from stress.chaos.aof_journal import AofJournal
from stress.cluster.account import Account, account
from stress.cluster.acts import Cluster
from stress.cluster.machines import SENDER, SERVER, Machine, Sender, server_on
from stress.cluster.network import Network, NotHere

SKIPPED: Final = 77
NODES: Final = ("a", "b", "c")
KEEPS: Final = "c"
ACTS: Final = ("cut", "freeze", "kill", "keep")
ROUNDS: Final = {"small": 1, "full": 8}
RATE: Final = 25.0
SHARED: Final = 200
"""Tasks of which each node must have run its part before the first loss."""
FAIR: Final = 0.15
DRAINED_WITHIN: Final = 60.0
GONE_WITHIN: Final = 2.0
TOLD: Final = 25
"""Lines of each node's log that a failure prints."""


def run(options: argparse.Namespace, stack: ExitStack) -> int:
    """Make the cluster, act, account; the exit code."""
    network = Network(*NODES, SERVER, SENDER)
    stack.callback(network.remove)
    network.make()
    folder = options.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    server = server_on(network, folder / SERVER)
    stack.callback(server.kill)
    url = f"redis://{network.address(SERVER)}:{server.port}/0"
    machines = []
    for name in NODES:
        on_lost = "keep" if name == KEEPS else "stop"
        machine = Machine(network, folder / name, url, folder / "ledger", options.lease, on_lost)
        stack.callback(machine.end)
        machines.append(machine)
        machine.start(50)
    sender = Sender(network, folder, url, RATE, options.seed)
    stack.callback(sender.end)
    stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second ^C must not leave half of it
    cluster = options.cluster = Cluster(machines, server, sender, options.lease, folder, network.cut, network.heal)
    for machine in machines:
        cluster.wait(machine.is_up, f"{machine.name} is up")
    share(cluster)
    draw = random.Random(f"acts {options.seed}")
    for _ in range(options.rounds):
        for act in draw.sample(options.acts, len(options.acts)):
            names = [KEEPS] if act == "keep" else [name for name in NODES if act != "cut" or name != KEEPS]
            name = draw.choice(names)
            cluster.lose(next(machine for machine in machines if machine.name == name), act)
    made = finish(cluster, sender)
    report(cluster, made)
    return 0 if made.is_sound and all(claim.holds for claim in cluster.claims) else 1


def share(cluster: Cluster) -> None:
    """Each node runs its part."""
    print("share", flush=True)
    for _ in range(SHARED):
        cluster.sender.send("work", cluster.name("share"), 0.02)
    cluster.wait(lambda: sum(run.task_id.startswith("share-") for run in cluster.runs()) == SHARED, "all have run")
    ran = Counter(run.node for run in cluster.runs() if run.task_id.startswith("share-"))
    told = ", ".join(f"{name} {ran[name]}" for name in NODES)
    cluster.claim("each node ran a fair part", min(ran[name] for name in NODES) >= FAIR * SHARED, told)


def finish(cluster: Cluster, sender: Sender) -> Account:
    """Let all end, stop the nodes, and account."""
    print("finish", flush=True)
    cluster.claim("the sender sent all", sender.finish() == 0)
    os.environ.update(STORM_BROKER=cluster.server.socket_url(), STORM_LEDGER="")
    from stress.cluster.cluster_app import app  # now, since it reads the environment

    deadline = time.monotonic() + DRAINED_WITHIN
    while any(app.broker.depth()[:3]) and time.monotonic() < deadline:
        time.sleep(0.05)
    cluster.claim("the queue is empty, and nothing held", not any(app.broker.depth()[:3]), str(app.broker.depth()))
    for machine in cluster.machines:
        code = machine.stop(15)
        stopped = time.monotonic() + GONE_WITHIN
        while (left := machine.marked()) and time.monotonic() < stopped:
            time.sleep(0.02)
        what = f"on TERM {machine.name} ends, and nothing of it is left"
        cluster.claim(what, code == 0 and not left, f"exit {code}, left {left}")
        impossible = machine.messages("impossible") + machine.messages("Traceback")
        cluster.claim("its log tells of nothing impossible", not impossible, "; ".join(impossible[:3]))
    lost = {loss.incarnation for loss in cluster.losses}
    healthy = [told for machine in cluster.machines for told in machine.told("node-rescued")
               if not any(incarnation in told.cause for incarnation in lost)]  # fmt: skip
    cluster.claim("no node was rescued that nothing had happened to", not healthy, "; ".join(map(str, healthy)))
    cluster.claim("no start is registered", not app.broker.others(), str(app.broker.others()))
    lives = AofJournal(cluster.server.folder).read()
    made = account(sender.accepted(), app, cluster.runs(), lives, cluster.losses)
    app.close()
    return made


def report(cluster: Cluster, made: Account) -> None:
    """Print the table, and whatever is wrong."""
    print(f"\n{'loss':16}{'held':>8}{'running':>9}{'ran again':>11}{'refused':>9}")
    for loss in cluster.losses:
        refused = len(made.refused[loss.what])
        print(f"{loss.what:16}{len(loss.held):8}{len(loss.ran):9}{made.again[loss.what]:11}{refused:9}")
    ran = Counter(run.node for run in cluster.runs())
    print(f"\n{made.accepted} tasks accepted; " + ", ".join(f"{name} ran {ran[name]}" for name in NODES))
    print(
        f"{len(made.lost)} lost, {len(made.doubled)} ended twice, {sum(made.again.values())} ran again as admitted, "
        f"{len(made.not_admitted)} not admitted, {sum(map(len, made.refused.values()))} ended late and did not count"
    )
    for kind in ("lost", "doubled", "not_admitted", "wrong"):
        for text in getattr(made, kind)[:20]:
            print(f"WRONG: {kind}: {text}")
    for claim in cluster.claims:
        if not claim.holds:
            print(f"WRONG: {claim.what}: {claim.measured}")


def tell_logs(machines: list[Machine]) -> None:
    """Print what the nodes warned of last: where this runs in CI, the folder is gone with it."""
    for machine in machines:
        lines = [line for level in ("info", "warning", "error") for line in machine.messages(f'"level": "{level}"')]
        print(f"{machine.name}:", *(f"  {line[:240]}" for line in sorted(lines, key=_moment)[-TOLD:]), sep="\n")


def _moment(line: str) -> str:
    return line.partition(": ")[2][:7]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.cluster", description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", help="each act once (the default)")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="each act eight times")
    parser.add_argument("--seed", type=int, default=1, help="of the tasks and the order of the acts (default: 1)")
    parser.add_argument("--acts", default=",".join(ACTS), help=f"of {', '.join(ACTS)} (default: all)")
    parser.add_argument("--lease", type=float, default=3.0, metavar="SECONDS", help="of every node (default: 3)")
    parser.set_defaults(size="small")
    options = parser.parse_args()
    options.rounds, options.acts = ROUNDS[options.size], options.acts.split(",")
    if unknown := set(options.acts) - set(ACTS):
        parser.error(f"no act {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is removed on the way out
    print(f"cluster: seed {options.seed}, lease {options.lease:g} s, {options.rounds} rounds", flush=True)
    options.folder = options.cluster = None
    try:
        with ExitStack() as stack:
            code = run(options, stack)
    except (NotHere, pytest.skip.Exception) as error:
        print(f"skipped: {error}")
        code = SKIPPED
    except TimeoutError as error:
        print(f"WRONG: {error}")
        code = 1
    except KeyboardInterrupt:
        code = 130
    if code == 1:
        if options.cluster is not None:
            tell_logs(options.cluster.machines)
        print(f"again: python -m stress.cluster --{options.size} --seed {options.seed} --acts {','.join(options.acts)}")
        print(f"logs, ledger and the server's file: {options.folder}")
    elif options.folder is not None:
        shutil.rmtree(options.folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
