"""A rule whose failure is accepted lets through, says so, and is read back so."""

from millrace.judge.gates import Rule, Verdict

RULES = (Rule("a", None, ">=", 1.0), Rule("b", 0.5, ">=", 1.0), Rule("c", 2.0, ">=", 1.0))


def test_only_what_is_accepted_no_longer_blocks():
    verdict = Verdict("data", RULES).accepting({"a": "no labels yet", "c": "needless"})

    assert [rule.name for rule in verdict.failures] == ["b"]
    assert [rule.name for rule in verdict.accepted] == ["a"]
    assert not verdict.passed


def test_an_accepted_failure_passes_and_says_so():
    verdict = Verdict("data", RULES).accepting({"a": "no labels yet", "b": "a trial"})

    assert verdict.passed
    assert verdict.headline == "gate 'data' passed (3 rules, 2 of them accepted)"
    assert str(verdict.rules[1]) == "accepted  b: 0.5 (wanted >= 1); accepted: a trial"
    assert Verdict.from_dict(verdict.to_dict()) == verdict


def test_a_verdict_without_acceptances_is_read_as_before():
    document = Verdict("data", RULES).to_dict()
    for rule in document["rules"]:
        del rule["accepted"]

    assert not Verdict.from_dict(document).passed
