"""Durations and sizes: seconds and bytes inside the program, ``60s`` and ``512MiB`` outside.

A bare size is refused: Celery's ``--max-memory-per-child`` is in KiB, and everyone guesses wrong.
"""

from __future__ import annotations

import re
from typing import Final

from poolrt.errors import ConfigurationError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)
_SIZE_UNITS: Final = {"b": 1} | {
    unit: factor**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, factor in ((f"{letter}b", 1000), (f"{letter}ib", 1024))
}


def parse_duration(value: str | float) -> float:
    """Seconds in ``value``: ``"60s"``, ``"1m30s"``, ``"250ms"``, or a bare number of seconds.

    Raises:
        ConfigurationError: it is not a duration, or is negative.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip().lower()
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ConfigurationError(f"{value!r} is not a duration; write for example 60s, 250ms or 1h30m")
        seconds = sum(float(number) * _DURATION_UNITS[unit or None] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise ConfigurationError(f"{value!r} is not a duration: it must be zero or more and finite")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes in ``value``: ``"512MiB"``, ``"2GB"``, or a bare 0.

    Raises:
        ConfigurationError: it is not a size, or has no unit.
    """
    if str(value).strip() == "0":
        return 0  # nothing is nothing in every unit
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        hint = f"; write {value}MiB or {value}B" if str(value).strip().isdigit() else "; write for example 512MiB"
        raise ConfigurationError(f"{value!r} is not a size with a unit{hint}")
    size = float(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size >= _TOO_LARGE:
        raise ConfigurationError(f"{value!r} is larger than any machine's memory")
    return int(size)


def format_duration(seconds: float) -> str:
    """``seconds`` as people write it: ``90.0`` is ``1m30s``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    text = ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        count = int(seconds // length)
        if count:
            text += f"{count}{unit}"
            seconds -= count * length
    return text + f"{seconds:g}s" if seconds or not text else text


def format_size(size: int) -> str:
    """``size`` bytes as people write it, in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


_TOO_LARGE: Final = 2.0**60
