"""A run that a gate ended leaves its reasons at the top of the index, and the runs before it within reach."""

from pathlib import Path

from millrace.judge.gates import Rule, Verdict
from millrace.judge.refusals import Refusal
from millrace.report.runs import publish
from run.blocked import told, write_page


def refusal(run: str) -> Refusal:
    data = Verdict("data", (Rule("label_values", 1, ">=", 2), Rule("days", 60, ">=", 2)))
    return Refusal(run=run, message="gate 'data' blocked\nReport: /lake/v/report.html", verdicts=(data,))


def test_what_is_printed_says_what_was_got_wanted_and_what_to_do() -> None:
    said = " ".join(told(refusal("20260101T000000-1")).split())

    assert said.startswith("Blocked by the data gate (1 of 2 rules). Nothing was promoted")
    assert "1. label_values, how many different labels there are: got 1, wanted at least 2." in said
    assert "Give data in which the label differs." in said
    assert "Report: /lake/v/report.html" in said


def test_the_index_says_blocked_first_and_leads_to_the_runs_before(tmp_path: Path) -> None:
    publish(tmp_path, "20260101T000000-1", "<html>the first run</html>")

    write_page(refusal("20260102T000000-1"), tmp_path)
    index = write_page(refusal("20260103T000000-1"), tmp_path).read_text(encoding="utf-8")

    assert index.index("This run was blocked") < index.index("label_values, how many") < index.index("Runs before")
    assert 'href="run-20260102T000000-1.html"' in index
    assert 'href="run-20260101T000000-1.html"' in index
    assert "the first run" in (tmp_path / "run-20260101T000000-1.html").read_text(encoding="utf-8")


def test_an_index_of_before_runs_had_pages_is_kept(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>long ago</html>", encoding="utf-8")

    index = write_page(refusal("20260102T000000-1"), tmp_path).read_text(encoding="utf-8")

    assert 'href="run-before.html"' in index
    assert "long ago" in (tmp_path / "run-before.html").read_text(encoding="utf-8")
