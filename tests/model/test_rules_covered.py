"""Which model has which rule of protocol.md as a switch: 1-18, 22 and 23. (19-21 are about one broker each.)

Each model has a test that all its rules together keep every promise, and one for each switch that a search finds a
broken promise without it.
"""

from __future__ import annotations

import pytest

from tests.model import (
    lease_world,
    node_world,
    recall_world,
    test_counting_model,
    test_protocol_model,
    test_wake_model,
)

MODELS: dict[str, tuple[str, ...]] = {
    "protocol": test_protocol_model.Rules._fields,
    "node": node_world.Rules._fields,
    "recall": recall_world.Rules._fields,
    "lease": lease_world.Rules._fields,
    "counting": test_counting_model.Rules._fields,
    "wake": test_wake_model.Rules._fields,
}
"""The switches of each model."""

SWITCHES = {
    1: {
        "protocol": "fence verdict_by_fence", "node": "new_generation release_by_fence", "recall": "own_numbers",
        "lease": "owner_is_start",
    },
    2: {"protocol": "bars", "lease": "bars renew_never_joins"},
    3: {"recall": "epochs resumes child_reconciles keeps_outcomes keeps_answered"},
    4: {"recall": "monotone releases"},
    5: {"node": "keeps_slot keeps_tickets verdict_by_fence", "recall": "keeps_tickets level_triggered repeats_recalls"},
    6: {"protocol": "atomic_bury", "recall": "atomic_bury commit_is_short"},
    7: {"recall": "recalls_behind recalls_upto row_first"},
    8: {"recall": "floors"},
    9: {"recall": "word_moves marks_uncovered"},
    10: {"lease": "compares_beat full_lease own_clock never_wraps scans_held"},
    11: {"lease": "from_sending fences_early cell_checked"},
    12: {"lease": "kills_refused"},
    13: {"lease": "condemns at_once no_user_code"},
    14: {"node": "lists_until_done waits_for_lock clean_if_nobody", "lease": "reclaims_own reclaims"},
    15: {"node": "sweeps", "lease": "sweeps_holders sweeps_marks waits_instead"},
    16: {"lease": "shares_lock checks_lock"},
    17: {
        "protocol": "counts_running", "node": "orders_uncounted templates_uncounted",
        "counting": "deaths_not_claims orders_uncounted",
    },
    18: {"node": "orders_on_board reads_board knows_boot", "counting": "reads_board counts_suspects suspects_alone"},
    22: {"lease": "kills_refused"},
    23: {"recall": "waits_for_answers", "wake": "nudges bounded fenced gives_back"},
}  # fmt: skip
"""By rule, then by model."""


def test_every_rule_has_a_switch() -> None:
    """Each rule that holds for Redis is in some model, by a switch that exists."""
    assert list(SWITCHES) == [*range(1, 19), 22, 23]
    for models in SWITCHES.values():
        for model, switches in models.items():
            assert set(switches.split()) <= set(MODELS[model])


@pytest.mark.parametrize("model", ["recall", "lease", "counting", "wake"])
def test_every_switch_is_of_a_rule(model: str) -> None:
    """A switch of these models that no rule names is one too many."""
    named = {switch for models in SWITCHES.values() for switch in models.get(model, "").split()}
    assert named == set(MODELS[model])
