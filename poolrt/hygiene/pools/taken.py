"""One connection that is out of its pool."""

from __future__ import annotations

import threading


class Taken:
    """What is known of it. A library's own class says the rest.

    Attributes:
        thread: the one that took it.
        stack: where, if traces were on then.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.stack = ""

    def is_gone(self) -> bool:
        """Whether its pool is gone, and the connection with it."""
        return False

    def what(self) -> str:
        """Where it leads, as ``host:port/database``."""
        raise NotImplementedError

    def driver(self) -> object:
        """The driver's connection; None if there is none any more."""
        return None

    def is_ours(self) -> bool:
        """Whether this thread has taken it, and no other."""
        return self.thread == threading.get_ident()

    def roll_back(self) -> bool:
        """End its transaction; False if that cannot be done from here. Raises what the library raises."""
        return False
