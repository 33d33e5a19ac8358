"""Who enqueues: a process on a host of its own, so that what it sends crosses the network.

python -m stress.cluster.sender RATE SEED ACCEPTED

stdin ──one JSON object a line──▶ one more task   {"kind": "hold", "id": …, "queue": …, "args": […]}
a stream of short tasks, RATE a second, drawn from SEED, until stdin ends
ACCEPTED ◀── the id of each task that the broker has taken, one a line
"""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from typing import Any

from poolrt.errors import BrokerError
from stress.cluster.cluster_app import app

AGAIN_AFTER = 0.05


def enqueue(kind: str, task_id: str, queue: str, arguments: list[Any], accepted: Any) -> None:
    """Enqueue a task, again under its id until the broker has taken it."""
    while True:
        try:
            app.tasks[kind].apply_async(arguments, task_id=task_id, queue=queue)
            break
        except BrokerError:
            time.sleep(AGAIN_AFTER)
    accepted.write(f"{task_id}\n")
    accepted.flush()


def main() -> None:
    """Send until stdin ends."""
    rate, seed, path = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    draw = random.Random(f"cluster {seed}")
    due, number, rest = time.monotonic(), 0, b""
    with open(path, "a") as accepted:
        while True:
            wait = max(0.0, due - time.monotonic())
            if select.select([0], [], [], wait)[0]:
                data = os.read(0, 65536)  # not sys.stdin, whose own buffer select cannot see
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    told = json.loads(line)
                    enqueue(told["kind"], told["id"], told["queue"], told["args"], accepted)
            if time.monotonic() >= due:
                due += 1 / rate
                number += 1
                seconds = draw.choice((0.0, 0.0, 0.001, draw.uniform(0.01, 0.3)))
                enqueue("work", f"work-{number:06d}", "default", [seconds], accepted)


if __name__ == "__main__":
    main()
