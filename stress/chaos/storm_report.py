"""What a storm says at its end: the account, the faults, and the story of whatever is wrong."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stress.chaos import account, faults, limits
from stress.chaos.canceller import Canceller
from stress.chaos.faults import Fault
from stress.chaos.journal import Entry
from stress.chaos.producer import Producer

if TYPE_CHECKING:
    from stress.chaos.storm import Storm

MOST_EXPLAINED: Final = 10


class Reclaim(NamedTuple):
    """How a start took back what the starts before it had held."""

    took: float
    """Seconds from its exec until the broker knew no earlier start any more."""
    booted: float
    """Seconds of these until its supervisor had a template that had imported the app."""
    fault: Fault

    def __str__(self) -> str:
        """For reports."""
        return (
            f"{self.fault}: what the node had held was taken back {self.took:.2f} s after its exec, "
            f"{self.booted:.2f} s of which until the app was imported"
        )


def report(storm: Storm, producer: Producer, made: account.Account, raged: float, took: float) -> None:
    """Print what was done, and what came of it."""
    print(account.table(made))
    print("\nfaults")
    for name, count in sorted(storm.made.items()):
        print(f"  {count:4} {name}")
    if storm.reclaims:
        half = statistics.median(each.took for each in storm.reclaims)
        print(f"\n{len(storm.reclaims)} starts took their own back, half of them within {half:.2f} s; the slowest:")
        print(f"  {max(storm.reclaims)}")
    print(
        f"{sum(node.starts for node in storm.nodes)} starts of the nodes; "
        f"{producer.refused} calls refused and made again; "
        f"{made.lost} lost, {made.doubled} ended twice, {made.total('again')} ran again; "
        f"{made.stored_again} without a record stored again; "
        f"storm {raged:.1f} s, all {took:.1f} s"
    )


def report_limits(
    ledger: account.Ledger, lives: dict[str, list[Entry]], signals: list[limits.Signal], producer: Producer,
    canceller: Canceller, made: account.Account,
) -> list[str]:  # fmt: skip
    """Print how the limits were kept and what became of the cancels; what is wrong with it."""
    kept, unique = limits.limits_kept(ledger, signals), limits.unique_kept(lives)
    print("\nlimits, by key")
    for each in kept:
        print(f"  {each}")
    most = max(unique.values(), default=0)
    there = made.kinds["unique"]["accepted"]
    print(f"  unique: {there} stored, {len(producer.merged)} merged with one that was there; at most {most} of a key")
    cancels = canceller.made.values()
    print(
        f"{len(cancels)} cancels: {sum(each.waited for each in cancels)} of tasks that waited, "
        f"{sum(each.told for each in cancels)} of tasks that a child had or a filter found; "
        f"{made.total('cancelled')} ended as cancelled, {made.after_cancel} started after that was acknowledged"
    )
    wrong = [text for each in kept for text in each.wrong()]
    wrong += [f"{count} tasks of {key} were there at a time" for key, count in unique.items() if count > 1]
    wrong += [
        f"{task_id} was refused for {holder}, which has another key, or was never there"
        for task_id, holder in producer.merged.items()
        if holder not in lives or faults.key_of_id(holder) != faults.key_of_id(task_id)
    ]
    if producer.left() or canceller.left():
        wrong.append(f"{producer.left()} calls and {canceller.left()} cancels were not made")
    return wrong


def verdict(storm: Storm, made: account.Account) -> str:
    """The last line."""
    wrong = len(storm.wrong) + len(made.wrong)
    return f"VERDICT: {wrong} promises broken" if wrong else "VERDICT: all kept"


def explain(storm: Storm, made: account.Account, path: Path) -> None:
    """Print what is wrong, and what ledger, journal and logs say of it."""
    for text in storm.wrong:
        print(f"WRONG: {text}")
    lives = storm.store.journal.read()
    ledger = account.Ledger(path)
    for number, (task_id, wrong) in enumerate(made.wrong.items()):
        print(f"WRONG: {task_id}: {'; '.join(wrong)}")
        if number < MOST_EXPLAINED:
            print(*(f"    {run}" for run in ledger.runs[task_id]), sep="\n")
            print(*(f"    {entry}" for entry in lives.get(task_id, [])), sep="\n")
            print(*(f"    {line}" for node in storm.nodes for line in node.messages(task_id)), sep="\n")
