"""The event loop of a child's async tasks: made for the first one, kept for all of them, which run one at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from poolrt.child.interruption import exception_for

if TYPE_CHECKING:
    from poolrt.child.interruption import Interrupter


class Coroutines:
    """Runs coroutines to their end.

    Attributes:
        loop: once there was a coroutine.
    """

    def __init__(self, interrupter: Interrupter) -> None:
        self._interrupter = interrupter
        self.loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Any) -> Any:
        """What it returns; raises what it raises, and an interruption as that."""
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        main = self.loop.create_task(coroutine)
        self._interrupter.entering_loop(self.loop, main)
        try:
            return self.loop.run_until_complete(main)
        except asyncio.CancelledError:
            reason = self._interrupter.cancelled
            if reason is None:
                raise  # the task's own doing
            raise exception_for(reason) from None
        finally:
            self._interrupter.leaving_loop()

    def close(self) -> None:
        """Close the loop, if there was one."""
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
