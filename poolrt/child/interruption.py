"""STUB until helper-1 writes it."""
from __future__ import annotations
import signal
from typing import Any
from poolrt.errors import SoftTimeLimitExceeded, TaskInterrupted
from poolrt.states import Interruption
class Interrupter:
    def __init__(self, row: Any, clock: Any = None) -> None:
        self._row = row; self._open = False
        self.raised: Interruption | None = None
        self.cancelled: Interruption | None = None
    def install(self) -> None:
        signal.signal(signal.SIGUSR2, self._handle)
    def _handle(self, number: int, frame: Any) -> None:
        word = self._row.interruption
        if not self._open or word >> 8 != self._row.sequence: return
        self.raised = Interruption(word & 0xFF)
        raise SoftTimeLimitExceeded() if self.raised is Interruption.SOFT_LIMIT else TaskInterrupted()
    def open(self) -> None:
        self.raised = self.cancelled = None; self._open = True
    def close(self) -> None:
        self._open = False
    def entering_loop(self, loop: Any, task: Any) -> None: ...
    def leaving_loop(self) -> None: ...
