"""Be called when a running frame comes to its next lines, without disturbing who else looks at lines.

    3.12 and later   sys.monitoring: a tool of our own, LINE events of the watched code objects alone
    3.11             sys.settrace, and f_trace of the watched frames; the former tracer is put back

On 3.11 the interpreter drops every tracer when one raises: the former one is put back by `LineEvents.stop`, called
at the task's end at the latest.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, FrameType

if sys.version_info >= (3, 12):
    _TOOLS: Final = (4, 3, 5, 2)
    """Tool ids that belong to nobody first, the optimizer's and the profiler's last."""

    class LineEvents:
        """Calls ``at_line(frame)`` before each line of watched frames; what it raises is raised there.

        It is called for other frames of their code too, in any thread. A line for which it returns True is not told
        again: a loop runs at its full speed.
        """

        def __init__(self, at_line: Callable[[FrameType], bool]) -> None:
            self._at_line = at_line
            self._tool: int | None = None
            self._codes: list[CodeType] = []

        def watch(self, frames: Iterable[FrameType]) -> None:
            """Watch these frames too; does nothing if other tools have taken every id."""
            monitoring = sys.monitoring
            if self._tool is None:
                self._tool = next((tool for tool in _TOOLS if monitoring.get_tool(tool) is None), None)
                if self._tool is None:
                    return
                monitoring.use_tool_id(self._tool, "poolrt")
                monitoring.register_callback(self._tool, monitoring.events.LINE, self._line)
            for frame in frames:
                self._codes.append(frame.f_code)
                monitoring.set_local_events(self._tool, frame.f_code, monitoring.events.LINE)

        def stop(self) -> None:
            """Watch nothing and give the tool back; safe to call twice."""
            if self._tool is None:
                return
            monitoring = sys.monitoring
            tool, self._tool = self._tool, None
            for code in self._codes:
                monitoring.set_local_events(tool, code, 0)
            self._codes.clear()
            monitoring.register_callback(tool, monitoring.events.LINE, None)
            monitoring.free_tool_id(tool)

        def _line(self, code: CodeType, line: int) -> object:
            return sys.monitoring.DISABLE if self._at_line(sys._getframe(1)) else None

else:

    class LineEvents:
        """Calls ``at_line(frame)`` before each line of watched frames; what it raises is raised there.

        Each time: a loop that runs meanwhile is some ten times slower.
        """

        def __init__(self, at_line: Callable[[FrameType], bool]) -> None:
            self._at_line = at_line
            self._active = False
            self._in_tracer = False
            self._former: Any = None
            self._frames: dict[FrameType, Any] = {}

        def watch(self, frames: Iterable[FrameType]) -> None:
            """Watch these frames too; all are of this thread."""
            if not self._active:
                self._active = True
                self._former = sys.gettrace()
            for frame in frames:
                self._frames.setdefault(frame, frame.f_trace)
                frame.f_trace = self._line
            sys.settrace(self._call)

        def stop(self) -> None:
            """Watch nothing and put the former tracer back; safe to call twice. Does nothing on the way to a raise."""
            if not self._active or self._in_tracer:
                return
            self._active = False
            for frame, former in self._frames.items():
                frame.f_trace = former
            self._frames.clear()
            former, self._former = self._former, None
            sys.settrace(former)

        def _call(self, frame: FrameType, event: str, arg: object) -> None:
            """Nothing of a new frame is looked at."""

        def _line(self, frame: FrameType, event: str, arg: object) -> Any:
            if event == "line":
                self._in_tracer = True
                try:
                    self._at_line(frame)
                finally:
                    self._in_tracer = False
            return self._line
