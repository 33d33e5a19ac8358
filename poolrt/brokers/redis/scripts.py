"""The Lua scripts, read once: each is its own file and the parts it names, run on the server as one atomic step.

-- Parts: names ending                             first line: parts/names.lua, parts/ending.lua, then the file
-- When needed: waking placing, for place          second line: these parts are run only if one of the functions
                                                   named is called: to make a closure costs each call 0.2 us
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final, NamedTuple

_FOLDER: Final = Path(__file__).parent / "lua"
_PARTS: Final = "-- Parts: "
_WHEN_NEEDED: Final = "-- When needed: "


class Script(NamedTuple):
    """One script as the server knows it."""

    name: str
    text: bytes
    sha: bytes
    """The name under which a server that has it runs it."""


@functools.cache
def script(name: str) -> Script:
    """The script in ``lua/<name>.lua``."""
    body = (_FOLDER / f"{name}.lua").read_text()
    first, second, *_ = body.split("\n", 2)
    names, *others = first.removeprefix(_PARTS).split()
    rare = _when_needed(second.removeprefix(_WHEN_NEEDED)) if second.startswith(_WHEN_NEEDED) else ""
    text = (_part(names) + rare + "".join(map(_part, others)) + body).encode()
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


def _part(name: str) -> str:
    return (_FOLDER / "parts" / f"{name}.lua").read_text()


def _when_needed(line: str) -> str:
    """Parts inside a function, and for each function that the script uses one of that name which runs them first."""
    parts, _, functions = line.partition(", for ")
    found = ", ".join(f"{name} = {name}" for name in functions.split())
    stubs = "".join(
        f"local function {name}(...) return when_needed().{name}(...) end\n" for name in functions.split()
    )  # fmt: skip
    inside = "".join(map(_part, parts.split()))
    return f"local function when_needed()\n{inside}return {{ {found} }}\nend\n{stubs}"
