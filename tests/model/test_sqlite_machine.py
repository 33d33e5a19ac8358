"""The real ``SqliteBroker`` against the reference of broker_machine.py."""

from __future__ import annotations

import shutil
import tempfile

from poolrt.brokers.sqlite import SqliteBroker
from tests.model.broker_machine import Machine, compare


class SqliteMachine(Machine):
    """A file for each example."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="machine-")
        super().__init__()

    def open_client(self) -> SqliteBroker:
        """See ``Machine``."""
        return SqliteBroker(f"{self.folder}/q.db", clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


def test_the_broker_does_what_the_reference_does() -> None:
    """Every answer to a random list of calls is the reference's."""
    compare(SqliteMachine)
