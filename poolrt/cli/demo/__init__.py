"""``poolrt demo``: the main job on real input, and an account of it."""

from typing import Final

BROKER_VARIABLE: Final = "POOLRT_DEMO_BROKER"
"""How the demo tells its children where its broker is; set before ``tasks`` is imported anywhere."""
