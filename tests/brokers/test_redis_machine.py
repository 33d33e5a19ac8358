"""The real ``RedisBroker`` against the reference of tests/model/broker_machine.py."""

from __future__ import annotations

import uuid

from poolrt.brokers.redis import RedisBroker
from tests.model.broker_machine import Machine, compare
from tests.servers import Server


def test_the_broker_does_what_the_reference_does(redis_server: Server) -> None:
    """Every answer to a random list of calls is the reference's."""

    class RedisMachine(Machine):
        """A namespace for each example."""

        def __init__(self) -> None:
            self.url = redis_server.url(namespace=f"t-{uuid.uuid4().hex}")
            super().__init__()

        def open_client(self) -> RedisBroker:
            """See ``Machine``."""
            return RedisBroker(self.url, clock=self.clock)

    compare(RedisMachine, examples=60)
