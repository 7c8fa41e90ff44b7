"""A gate that said no is known by what it left behind, not by the text of an error."""

from pathlib import Path

import pytest

from millrace.errors import ArtifactCorrupt, GateBlocked
from millrace.judge.gates import Rule, Verdict, require_all
from millrace.judge.refusals import recorded, refusal_of, refusal_path

PASSED = Verdict("data", (Rule("rows", 5, ">=", 1),))
FAILED = Verdict("model", (Rule("gain", -0.25, ">", 0.0, "over champion a"), Rule("rows", 5, ">=", 1)))


def test_what_blocked_is_found_by_the_run(tmp_path: Path) -> None:
    with pytest.raises(GateBlocked) as blocked, recorded(tmp_path, "run-7"):
        require_all([PASSED, FAILED])

    refusal = refusal_of(tmp_path, "run-7")
    assert refusal is not None
    assert refusal.verdicts == (PASSED, FAILED)
    assert refusal.message == str(blocked.value)


def test_its_sentence_names_gates_and_rules_that_failed_and_no_others(tmp_path: Path) -> None:
    with pytest.raises(GateBlocked), recorded(tmp_path, "run-7"):
        require_all([PASSED, FAILED, Verdict("empty", ())])

    refusal = refusal_of(tmp_path, "run-7")
    assert refusal is not None
    assert refusal.sentence == (
        "gate 'model' blocked: 1 of 2 rules failed; FAIL  gain: -0.25 (wanted > 0); over champion a; "
        "gate 'empty' blocked: it measured nothing"
    )


def test_a_run_that_passed_or_failed_otherwise_has_none(tmp_path: Path) -> None:
    with recorded(tmp_path, "passed"):
        require_all([PASSED])
    with pytest.raises(ZeroDivisionError), recorded(tmp_path, "failed"):
        raise ZeroDivisionError

    assert refusal_of(tmp_path, "passed") is None
    assert refusal_of(tmp_path, "failed") is None


def test_a_file_that_is_no_refusal_is_named(tmp_path: Path) -> None:
    path = refusal_path(tmp_path, "run-7")
    path.parent.mkdir()
    path.write_text('{"run": "run-7"}')

    with pytest.raises(ArtifactCorrupt, match=r"run-7\.json is not a refusal"):
        refusal_of(tmp_path, "run-7")
