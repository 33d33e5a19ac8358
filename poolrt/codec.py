"""Codecs of arguments and results: JSON by default, cloudpickle only where the sender is trusted.

JSON is used when it is exact: a value of another type would come back as something else (a datetime as
text, an int key as a string key, NaN as null), so it is either carried by cloudpickle, over a trusted
broker, or refused by name. Tuples are the one allowance: they come back as lists, as everywhere in JSON.

A cloudpickle codec carries the Python minor version that made it, because another minor's bytecode
segfaults the reader (measured); bytes of another minor are never unpickled.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from poolrt.errors import DecodingError, EncodingError

JSON: Final = "json"
PICKLE: Final = f"cloudpickle:{sys.version_info[0]}.{sys.version_info[1]}"
MAX_DEPTH: Final = 64

_json_encoder = msgspec.json.Encoder()
_json_decode = msgspec.json.Decoder().decode


def _inexact(value: Any, depth: int = 0) -> str | None:
    """Why JSON would not bring ``value`` back as it is, or None when it would."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return None
    if kind is int:
        return None if -(2**63) <= value < 2**64 else "an int beyond 64 bits"
    if kind is float:
        return None if math.isfinite(value) else f"the float {value}"
    if kind not in _CONTAINERS:
        return f"a value of type {kind.__module__}.{kind.__qualname__}"
    return _inexact_items(value, depth + 1) if depth < MAX_DEPTH else f"a value nested deeper than {MAX_DEPTH}"


_CONTAINERS: Final = frozenset({list, tuple, dict})


def _inexact_items(container: Any, depth: int) -> str | None:
    items = container
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                return f"a dict key of type {type(key).__name__}"
        items = container.values()
    for item in items:
        if (reason := _inexact(item, depth)) is not None:
            return reason
    return None


def _encode(value: Any, reason: str | None, *, trusted: bool, what: str) -> tuple[str, bytes]:
    if reason is None:
        try:
            return JSON, _json_encoder.encode(value)
        except UnicodeEncodeError:
            reason = "a str with a lone surrogate"
    if not trusted:
        raise EncodingError(
            f"{what} holds {reason}, which JSON does not carry; pass plain values (str, int, list, dict, …)"
        )
    return PICKLE, pickle(value, what)


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], *, trusted: bool, task: str) -> tuple[str, bytes]:
    """``(codec, payload)`` of a call.

    Raises:
        EncodingError: a value cannot be carried; the text names the task and the type, never the value.
    """
    reason: str | None = None
    for value in args:
        if (reason := _inexact(value)) is not None:
            break
    else:
        if kwargs:
            reason = _inexact(dict(kwargs))
    return _encode((tuple(args), dict(kwargs)), reason, trusted=trusted, what=f"a call of {task}")


def encode_value(value: Any, *, trusted: bool, task: str) -> tuple[str, bytes]:
    """``(codec, bytes)`` of a result, like ``encode_arguments``. Raises EncodingError."""
    return _encode(value, _inexact(value), trusted=trusted, what=f"the result of {task}")


def decode(codec: str, payload: bytes, *, trusted: bool) -> Any:
    """The value in ``payload``.

    Raises:
        DecodingError: damaged, of an unknown codec, by another Python minor, or pickled by someone not trusted.
    """
    if codec == JSON:
        try:
            return _json_decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodingError(f"damaged JSON: {error}") from None
    if not codec.startswith("cloudpickle:"):
        raise DecodingError(f"unknown codec {codec!r}")
    if not trusted:
        raise DecodingError("pickled, and this broker is not trusted: never unpickled")
    if codec != PICKLE:
        raise DecodingError(
            f"pickled by Python {codec.partition(':')[2]}, this is {PICKLE.partition(':')[2]}: never unpickled"
        )
    return unpickle(payload)


def pickle(value: Any, what: str) -> bytes:
    """``value`` by cloudpickle; raises EncodingError naming ``what``."""
    from poolrt.byvalue import dumps  # cloudpickle: 24 ms, and most programs never need it

    try:
        pickled = dumps(value)
    except Exception as error:  # user code runs in __reduce__ and __getstate__: anything can come
        raise EncodingError(f"{what} cannot be pickled: {type(error).__name__}: {error}") from error
    return pickled


def unpickle(payload: bytes) -> Any:
    """The value in trusted bytes of this Python minor; raises DecodingError: damaged, or a class is missing here."""
    import pickle as standard_pickle

    try:
        return standard_pickle.loads(payload)  # noqa: S301  the caller checked trust and version
    except Exception as error:  # user code runs in __setstate__ and imports: anything can come
        raise DecodingError(f"cannot be unpickled here: {type(error).__name__}: {error}") from error
