"""Whose lease is over, from the beats that each renewal brings. Pure: it is told what was read, and when.

    renewal ──{incarnation: beat}──▶ learn() ──(incarnation, beat) seen unchanged for a whole lease──▶ rescue

A beat is a number that its node moves on; no clock but our own is asked (protocol.md, rule 10). A node is given up
only after its beat was *watched*: while we did not look, because we were stopped or the broker was away, the node may
have been just as unable to renew, so after such a gap the watch of all begins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from poolrt.incarnation import RENEWALS

_LONGEST_GAP: Final = 3 / RENEWALS
"""Of a lease, between two looks. The slowest working steward needs 2.6 renewals: its pause, one call, the renewal."""


class Expired(NamedTuple):
    """A start whose node was silent for a whole lease."""

    incarnation: str
    beat: int
    """The beat it stands at: the broker rescues it only if it still does."""


class Beats:
    """What one steward has seen of the beats of others.

    Args:
        lease: seconds; taken to be the same for all nodes of a broker.
        own: the incarnation that is not watched.
    """

    def __init__(self, lease: float, own: str) -> None:
        self._lease = lease
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}
        """Each start's beat, and when it was first seen."""
        self._looked = float("-inf")

    def learn(self, beats: Mapping[str, int], asked: float, answered: float) -> list[Expired]:
        """Take in what a renewal read; which starts have expired. They are told again until they are gone.

        Args:
            beats: of every start that is registered or holds something.
            asked: monotonic seconds before the reading: a beat stood still until then at least.
            answered: monotonic seconds after it: a new beat was seen by then.
        """
        if asked - self._looked > self._lease * _LONGEST_GAP:
            self._seen.clear()
        self._looked = answered
        before, self._seen = self._seen, {}
        expired = []
        for incarnation, beat in beats.items():
            if incarnation == self._own:
                continue
            known, since = before.get(incarnation, (beat, answered))
            if known != beat:
                since = answered
            self._seen[incarnation] = (beat, since)
            if asked - since >= self._lease:
                expired.append(Expired(incarnation, beat))
        return expired
