"""The bench app of a service that uses pandas: a heavy import with native libraries."""

import pandas as pd  # noqa: F401
from poolrt_app import app

__all__ = ["app"]
