"""What one run took, as its report asks for it."""

import math
import statistics
from typing import Any

# A take is quiet if other processes used at most this much in its window. Set on the peers alone, before poolrt ran:
# with 0.46 CPUs in use by others celery recycled at 33 tasks/s, with 0.02 at 79 to 99: a laxer limit would flatter us.
QUIET_CPUS = 0.2


class Run:
    """The takes of one run by variant and measure; incomplete ones are listed, never averaged."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.meta: dict[str, Any] = data["meta"]
        self.takes: list[dict[str, Any]] = data["takes"]
        self.variants = list(dict.fromkeys(take["variant"] for take in self.takes))

    def good(self, variant: str, measure: str, most_others: float = math.inf) -> list[dict[str, Any]]:
        """Return the complete takes, if others used that much of the machine at most."""
        mine = (take for take in self.takes if (take["variant"], take["measure"]) == (variant, measure))
        return [take for take in mine if take.get("complete") and take["other_cpus"] <= most_others]

    def values(self, variant: str, measure: str, name: str, most_others: float = math.inf) -> list[float]:
        """Return one number of those takes."""
        return [take[name] for take in self.good(variant, measure, most_others)]

    def by_repetition(self, variant: str, measure: str, name: str, most_others: float) -> dict[int, float]:
        """Return the same by repetition."""
        return {take["rep"]: take[name] for take in self.good(variant, measure, most_others)}

    def median(self, variant: str, measure: str, name: str, digits: int = 0) -> str:
        """Return a number's median over the complete takes."""
        values = self.values(variant, measure, name)
        return f"{statistics.median(values):.{digits}f}" if values else "-"

    def spread(self, variant: str, measure: str, name: str, digits: int = 0) -> str:
        """Return a number's median and range over all complete takes."""
        values = self.values(variant, measure, name)
        if not values:
            return "-"
        middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
        return f"{middle}, {low}..{high} ({len(values)})"

    def quiet(self, variant: str, measure: str, name: str, digits: int = 0) -> str:
        """Return a number's median over the takes that had the machine nearly to themselves."""
        values = self.values(variant, measure, name, QUIET_CPUS)
        return f"{statistics.median(values):.{digits}f} ({len(values)})" if values else "-"
