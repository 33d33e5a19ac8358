"""Unit tests fork nothing and wait for nothing; what they generate is generated fast and kept nowhere."""

from __future__ import annotations

from hypothesis import settings

# No deadline: a loaded machine is slow, and pytest's own timeout ends what hangs. No database: it would be a file.
settings.register_profile("unit", max_examples=60, deadline=None, database=None)
settings.load_profile("unit")
