"""The Lua scripts, read once: each is its own file and the parts it names, run on the server as one atomic step.

-- Parts: names ending                             first line: parts/names.lua, parts/ending.lua, then the file
-- When needed: waking placing, for place          lines after it: the parts of such a line are run only if one of the
                                                   functions named in it is called; two lines may name the same part
    -- Part: records                               a line inside a part: that part stands here

To make a closure, or the name of a key, costs each call 0.2 us, and five times that on a processor that has just been
idle. So of parts/names.lua a script has only those names that it uses, and those that only the parts of a later line
use are made with them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from pathlib import Path
from typing import Final, NamedTuple

_FOLDER: Final = Path(__file__).parent / "lua"
_PARTS: Final = "-- Parts: "
_WHEN_NEEDED: Final = "-- When needed: "
_INSIDE: Final = re.compile(r"^ +-- Part: (\w+)\n", re.MULTILINE)
_NAME: Final = re.compile(r"local (?:function )?(\w+)")


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
    first, *following = body.splitlines()
    parts = first.removeprefix(_PARTS).split()[1:]
    text = "".join(map(_part, parts)) + body
    names = _names_for(text)
    for line in itertools.takewhile(lambda line: line.startswith(_WHEN_NEEDED), following):
        text = _when_needed(line.removeprefix(_WHEN_NEEDED), names) + text
    text = "".join(names) + text
    return Script(name, text.encode(), hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode())


def _part(name: str) -> str:
    text = (_FOLDER / "parts" / f"{name}.lua").read_text()
    return _INSIDE.sub(lambda line: _part(line[1]), text)


def _names_for(text: str) -> list[str]:
    """The lines of parts/names.lua whose name is used in ``text``, or by a line after it that is."""
    chosen: list[str] = []
    for line in reversed(_part("names").splitlines(keepends=True)):
        name = _NAME.match(line)
        if name and re.search(rf"\b{name[1]}\b", text + "".join(chosen)):
            chosen.insert(0, line)
    return chosen


def _when_needed(line: str, known: list[str]) -> str:
    """Parts inside a function, and for each function that the script uses one of that name which runs them first."""
    parts, _, functions = line.partition(", for ")
    found = ", ".join(f"{name} = {name}" for name in functions.split())
    stubs = "".join(
        f"local function {name}(...) return when_needed().{name}(...) end\n" for name in functions.split()
    )  # fmt: skip
    inside = "".join(map(_part, parts.split()))
    inside = "".join(name for name in _names_for(inside) if name not in known) + inside
    once = f"if made then return made end\n{inside}made = {{ {found} }}\nreturn made\n"
    return f"local made\nlocal function when_needed()\n{once}end\n{stubs}"
