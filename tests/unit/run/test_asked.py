"""What is wrong in the words of a run is said before anything is computed."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.errors import ConfigError, InvalidInput
from millrace.installed import load
from run.asked import require_valid

FRAUD = load("fraud")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"evaluate_overrides": {"resamples": 10}}, "resamples"),
        ({"evaluate_overrides": {"min_aucroc": 0.5}}, "min_aucroc"),
        ({"validate_overrides": {"max_missing_days": "many"}}, "max_missing_days"),
        ({"train_overrides": {"epochs": -1}}, "epochs"),
        ({"profile": "nobody's"}, "nobody's"),
    ],
)
def test_a_key_or_value_that_a_step_would_refuse_is_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_valid(FRAUD, arguments)


def test_a_rule_that_no_gate_has_is_accepted_by_nobody() -> None:
    with pytest.raises(InvalidInput, match="no_such_rule"):
        require_valid(FRAUD, {"accept": {"no_such_rule": "why not"}})


@pytest.mark.parametrize("profile", ["", "simulated"])
def test_what_the_steps_take_passes(profile: str) -> None:
    asked = {"evaluate_overrides": {"resamples": 20}, "train_overrides": {"epochs": 1}, "profile": profile}

    assert require_valid(FRAUD, asked) is None  # type: ignore[func-returns-value]
