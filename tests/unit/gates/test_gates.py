"""Rules and verdicts: a gate blocks unless everything was measured and passed."""

import json
import math

import pytest

from millrace.errors import GateBlocked, InvalidInput
from millrace.judge.gates import Rule, Verdict, require_all


@pytest.mark.parametrize(
    ("comparison", "low", "equal", "high"),
    [("<=", True, True, False), (">=", False, True, True), ("<", True, False, False), (">", False, False, True)],
)
def test_a_rule_compares_its_value_with_its_limit(comparison, low, equal, high):
    assert [Rule("r", value, comparison, 2).passed for value in (1, 2, 3)] == [low, equal, high]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("comparison", ["<=", ">=", "<", ">", "=="])
def test_a_value_that_is_no_number_fails_every_comparison(value, comparison):
    assert not Rule("r", value, comparison, 0).passed


def test_an_unknown_comparison_is_named():
    with pytest.raises(InvalidInput, match="'=<'"):
        Rule("r", 1, "=<", 2)


def test_a_gate_without_rules_blocks():
    assert not Verdict("empty", ()).passed
    with pytest.raises(GateBlocked, match="measured nothing"):
        Verdict("empty", ()).require()


def test_no_verdicts_at_all_block():
    with pytest.raises(GateBlocked):
        require_all([])


def test_a_block_names_every_failed_rule_of_every_gate_and_no_other():
    good, bad = Rule("fine", 1, "<=", 2), Rule("bad", 3, "<=", 2, "why")
    verdicts = [Verdict("a", (good, bad)), Verdict("b", (Rule("absent", None, ">", 0),)), Verdict("c", (good,))]

    with pytest.raises(GateBlocked) as blocked:
        require_all(verdicts)

    message = str(blocked.value)
    assert "FAIL  bad: 3 (wanted <= 2); why" in message
    assert "FAIL  absent: not measured (wanted > 0)" in message
    assert "fine" not in message
    assert "'c'" not in message


def test_a_verdict_survives_its_file_and_a_forged_pass_does_not(tmp_path):
    verdict = Verdict("g", (Rule("bad", 3.0, "<=", 2.0, "why"), Rule("absent", math.nan, ">", 0.0)))
    verdict.write(tmp_path / "verdict.json")
    document = json.loads((tmp_path / "verdict.json").read_text())
    document |= {"passed": True, "rules": [rule | {"passed": True} for rule in document["rules"]]}
    (tmp_path / "forged.json").write_text(json.dumps(document))

    assert Verdict.read(tmp_path / "verdict.json").failures[0] == verdict.rules[0]
    assert document["rules"][1]["value"] is None
    assert not Verdict.read(tmp_path / "forged.json").passed


def test_a_file_that_is_no_verdict_is_refused():
    with pytest.raises(InvalidInput, match="not a verdict"):
        Verdict.from_dict({"gate": "g", "rules": [{"name": "r"}]})
