"""What a template is started with: a struct in an unlinked file, whose fd the supervisor passes on through exec.

A file, and not a frame or an argument: an app by value can be larger than either, and ``ps`` shows arguments.
"""

from __future__ import annotations

import msgspec

from poolrt.app.location import Location
from poolrt.settings import Settings


class TemplateConfig(msgspec.Struct, frozen=True, array_like=True):
    """The app's place and the node's settings."""

    location: Location
    settings: Settings


def decode_config(content: bytes) -> TemplateConfig:
    """The config in a file's content; made by poolrt.service."""
    return msgspec.msgpack.decode(content, type=TemplateConfig)
