"""What the harness hands to a peer's process, through the environment."""

import json
import os
from typing import Any

RECORD_FILE: str = os.environ["BENCH_RECORDS"]
REDIS_URL: str = os.environ.get("BENCH_REDIS_URL", "")
SQLITE: str = os.environ["BENCH_SQLITE"]
RESULTS: bool = os.environ.get("BENCH_RESULTS") == "1"
OPTIONS: dict[str, Any] = json.loads(os.environ.get("BENCH_OPTIONS", "{}"))
