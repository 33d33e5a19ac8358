"""The leaky app on poolrt."""

import os

from poolrt import App
from stress.postgres import leaky

app = App("leaky", broker=os.environ.get("LEAKY_BROKER", "sqlite:///leaky.db"))


@app.task(ignore_result=True)
def ask(kind: str, rate: float) -> None:
    """One task."""
    leaky.run(kind, rate)
