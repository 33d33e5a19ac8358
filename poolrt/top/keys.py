"""Bytes of a terminal in, names of keys out."""

from __future__ import annotations

import re
from typing import Final

ESCAPE: Final = "esc"
_ESC: Final = 0x1B
_SEQUENCE: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\x1b\[O])")
"""CSI with its parameters, SS3 (cursor keys in application mode), or Alt with a key."""
_NAMES: Final = {
    b"\x1b[A": "up", b"\x1bOA": "up",
    b"\x1b[B": "down", b"\x1bOB": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
    b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home",
    b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end",
}  # fmt: skip
_LONGEST: Final = 32
"""Bytes: no key sends more."""


class Keys:
    """Reads keys from chunks of bytes, which may end within a key.

    A lone ESC and the first byte of an arrow key look alike: ``waiting`` says that more must come, or `lone` be called
    after a pause.
    """

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting(self) -> bool:
        """Whether the last chunk ended with an ESC, or within a sequence."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys in ``data``: printable ASCII as it is, named ones by name; unknown ones are left out."""
        data, self._rest = self._rest + data, b""
        found: list[str] = []
        at = 0
        while at < len(data):
            if data[at] != _ESC:
                if 0x20 <= data[at] < 0x7F:
                    found.append(chr(data[at]))
                at += 1
                continue
            sequence = _SEQUENCE.match(data, at)
            if sequence is not None:
                if name := _NAMES.get(sequence[0]):
                    found.append(name)
                at = sequence.end()
            elif at + 1 < len(data) and data[at + 1] == _ESC:
                found.append(ESCAPE)
                at += 1
            else:
                self._rest = data[at:] if len(data) - at <= _LONGEST else b""
                break
        return found

    def lone(self) -> list[str]:
        """What is waiting is all that comes: ESC if it is that byte alone."""
        rest, self._rest = self._rest, b""
        return [ESCAPE] if rest == b"\x1b" else []
