"""The step that turns verdicts into a stop."""

import pytest

from components.gate.core import require
from millrace.errors import ArtifactCorrupt, GateBlocked, InvalidInput
from millrace.judge.gates import Rule, Verdict
from millrace.lake.manifest import Manifest, hash_files


@pytest.fixture
def judged(tmp_path):
    """`judged("evaluation", value)` → an artifact whose only rule wants the value to be at most 1."""

    def write(kind, value, gate="g"):
        folder = tmp_path / f"{kind}-{value}"
        folder.mkdir()
        Verdict(gate, (Rule("size", value, "<=", 1),)).write(folder / "verdict.json")
        return Manifest(
            kind=kind, id="x", workload="fraud", uri=str(folder), files=hash_files(folder), facts={"passed": True}
        )

    return write


def test_artifacts_that_passed_let_the_pipeline_go_on(judged):
    verdicts = require([judged("evaluation", 0.5, "a"), judged("skew_check", 0.1, "b")])

    assert [verdict.gate for verdict in verdicts] == ["a", "b"]


def test_one_failure_among_many_blocks_whatever_the_facts_say(judged):
    with pytest.raises(GateBlocked, match=r"size: 2 \(wanted <= 1\)"):
        require([judged("evaluation", 0.5), judged("validation", 2)])


def test_the_message_names_the_report_of_what_failed_or_its_folder(judged):
    passed, with_page, without = judged("evaluation", 0.5), judged("validation", 2), judged("skew_check", 3)
    for artifact in (passed, with_page):
        (artifact.fetch() / "report.html").write_text("<html>")

    with pytest.raises(GateBlocked) as blocked:
        require([passed, with_page, without])

    lines = str(blocked.value).splitlines()
    assert lines[-2:] == [f"Report: {with_page.fetch() / 'report.html'}", f"Report: {without.fetch()}"]
    assert len(blocked.value.verdicts) == 3


def test_nothing_to_read_blocks():
    with pytest.raises(GateBlocked):
        require([])


def test_an_artifact_that_was_not_judged_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="model x carries no verdict"):
        require([Manifest(kind="model", id="x", workload="fraud", uri=str(tmp_path))])


def test_a_verdict_changed_after_it_was_written_is_refused(judged):
    artifact = judged("evaluation", 2)
    Verdict("g", (Rule("size", 0, "<=", 1),)).write(artifact.path("verdict.json"))

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        require([artifact])


def test_a_missing_or_broken_verdict_is_refused(judged):
    gone, broken = judged("evaluation", 0), judged("validation", 0)
    gone.path("verdict.json").unlink()
    broken.path("verdict.json").write_text("{")
    broken.files.update(hash_files(broken.fetch()))

    with pytest.raises(ArtifactCorrupt, match="missing"):
        require([gone])
    with pytest.raises(ArtifactCorrupt, match="not a verdict"):
        require([broken])
