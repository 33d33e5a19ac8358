"""The ceiling on Redis: what two processes move through redis-py when they do nothing but move tasks.

    producer   pipelined LPUSH ──▶ list ──script──▶ hash of what this process holds
                                     one call: forget the last 64, move over and return the next 64
    process    decode the envelope, look the function up, write the board's cells, call

No rescue, no fence, no limits, no retries. ``python bare_loop.py PROCESSES`` starts it; TERM ends it.
"""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis
from bench_env import REDIS_URL
from recorder import hit

QUEUE, BATCH, ID_BYTES = "bare:queue", 64, 32
ROW_CELLS = 64
RUN, DONE = 1, 2
EMPTY_REST_S = 0.002
ENDLESS_NS = 3600 * 10**9

TAKE = f"""
if #ARGV > 1 then redis.call('HDEL', KEYS[2], unpack(ARGV, 2)) end
local taken = redis.call('RPOP', KEYS[1], ARGV[1])
if not taken then return {{}} end
local held = {{}}
for place, message in ipairs(taken) do
  held[2 * place - 1] = string.sub(message, 1, {ID_BYTES})
  held[2 * place] = message
end
redis.call('HSET', KEYS[2], unpack(held))
return taken
"""


class Envelope(msgspec.Struct, array_like=True):
    """What travels, behind its id."""

    task: str
    args: list[Any]
    enqueued_at: float
    priority: int = 0
    attempt: int = 1
    expires: float | None = None


def noop() -> None:
    """Do nothing."""
    hit()


TASKS = {"bare_loop.noop": noop}


def bulk(task: str) -> Callable[[Sequence[Sequence[Any]]], None]:
    """Return what enqueues many calls of a task."""
    client, encode = redis.Redis.from_url(REDIS_URL), msgspec.msgpack.encode

    def enqueue(calls: Sequence[Sequence[Any]]) -> None:
        for first in range(0, len(calls), 1000):
            now = time.time()
            messages = [
                os.urandom(ID_BYTES // 2).hex().encode() + encode(Envelope(f"bare_loop.{task}", list(args), now))
                for args in calls[first : first + 1000]
            ]
            client.lpush(QUEUE, *messages)

    return enqueue


def loop(number: int, board: mmap.mmap) -> None:
    """Take, run, take again, for ever."""
    call = redis.Redis.from_url(REDIS_URL).execute_command
    take = ("EVALSHA", call("SCRIPT LOAD", TAKE), 2, QUEUE, f"bare:held:{number}", BATCH)
    decode, now = msgspec.msgpack.Decoder(Envelope).decode, time.monotonic_ns
    row = memoryview(board).cast("Q")[number * ROW_CELLS : (number + 1) * ROW_CELLS]
    parent, sequence, batches = os.getppid(), 0, 0
    settled: list[bytes] = []
    while os.getppid() == parent:
        taken = call(*take, *settled)
        batches += 1
        for place, message in enumerate(taken):
            envelope = decode(memoryview(message)[ID_BYTES:])
            function = TASKS[envelope.task]
            sequence += 1
            started = now()
            row[1], row[2], row[3], row[4] = started, started + ENDLESS_NS, batches, place
            row[0] = sequence << 8 | RUN  # last: whoever reads it reads cells that belong to it
            function(*envelope.args)
            row[0] = sequence << 8 | DONE
            row[5] = sequence
        settled = [message[:ID_BYTES] for message in taken]
        if not taken:
            time.sleep(EMPTY_REST_S)


def main() -> None:
    """Fork the processes, wait for TERM, end them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    count = int(sys.argv[1])
    board = mmap.mmap(-1, count * ROW_CELLS * 8)
    pids = []
    for number in range(count):
        if not (pid := os.fork()):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            loop(number, board)
            os._exit(1)  # the parent is gone
        pids.append(pid)
    signal.sigwait({signal.SIGTERM})
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
