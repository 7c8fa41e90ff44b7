"""Rules in words, and names that may be accepted."""

import pytest

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.judge.explained import explain, require_known, sentences
from millrace.judge.gates import Rule, Verdict

FRAUD, TRIPS = load("fraud"), load("trips")


def test_a_rule_that_failed_says_what_it_measures_got_wanted_and_what_to_do():
    verdict = Verdict("evaluation", (Rule("auc_roc_low", 0.48, ">=", 0.55, "0.51 [0.48, 0.54]"),))

    (said,) = sentences(verdict)

    assert said.startswith(
        "auc_roc_low, how often a positive scores above a negative, beyond doubt (0.5 is guessing): "
    )
    assert "got 0.48, wanted at least 0.55. 0.51 [0.48, 0.54]. Give more data" in said
    assert "change min_auc_roc_low under evaluate in --overrides" in said
    assert said.endswith("accept it: --accept 'auc_roc_low=REASON'.")


def test_rules_of_a_family_are_told_together():
    rules = tuple(Rule(f"stress_loss[{name}]", value, "<=", 0.25) for name, value in (("no_state", 0.5), ("x", None)))

    assert len(sentences(Verdict("evaluation", rules))) == 1
    assert "The same of stress_loss[x] (not measured)." in sentences(Verdict("evaluation", rules))[0]


@pytest.mark.parametrize("name", ["test_positves", "stress_loss[earthquake]", "leaked_column[planet]", "mae"])
def test_a_rule_that_no_gate_has_cannot_be_accepted(name):
    with pytest.raises(InvalidInput, match="no gate of workload 'fraud' has such a rule"):
        require_known(FRAUD, {name: "why not"})


def test_a_name_that_is_nearly_right_is_suggested():
    with pytest.raises(InvalidInput, match="did you mean test_positives"):
        require_known(FRAUD, {"test_positves": "why not"})


@pytest.mark.parametrize("name", ["label_values", "window_days", "validation_cases"])
def test_what_nobody_can_do_without_cannot_be_accepted(name):
    with pytest.raises(InvalidInput, match="nothing to learn from or to judge by"):
        require_known(FRAUD, {name: "why not"})


def test_an_acceptance_without_a_reason_is_refused():
    with pytest.raises(InvalidInput, match="has no reason"):
        require_known(FRAUD, {"test_positives": " "})


@pytest.mark.parametrize(
    ("workload", "other", "names"),
    [
        (FRAUD, TRIPS, ["slice_auc_loss[weekend]", "silent_terminal_share", "attack_loss[split_in_four]"]),
        (TRIPS, FRAUD, ["mae", "gain_over[pair_mean]", "new_pair_row_share"]),
    ],
    ids=["classes", "quantity"],
)
def test_rules_of_the_workload_may_be_accepted_and_those_of_another_may_not(workload, other, names):
    require_known(workload, dict.fromkeys([*names, "probes compared"], "a trial"))

    for name in names:
        with pytest.raises(InvalidInput, match="has such a rule"):
            require_known(other, {name: "a trial"})


def test_every_kind_of_rule_of_a_gate_is_explained_once():
    assert explain("skew", "terminal_state missing online") is not None
    assert explain("data", "amount_max_ratio") is not None
    assert explain("data", "no such rule") is None
