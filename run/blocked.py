"""What is left of a run that a gate ended: its reasons as sentences, printed and at the top of the index.

A refusal in, text and a page out. The words for rules are `millrace.judge.explained`'s.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

from millrace.judge.explained import sentences
from millrace.judge.gates import Verdict
from millrace.judge.refusals import Refusal
from millrace.report.runs import earlier, publish

UNTOUCHED = "Nothing was promoted; what serves goes on as it was."


def told(refusal: Refusal) -> str:
    """The reasons, one numbered sentence or two each, then where the reports are."""
    lines = [headline(refusal), ""]
    for number, reason in enumerate(_reasons(refusal), 1):
        lines.append(textwrap.fill(reason, 116, initial_indent=f"{number:3}. ", subsequent_indent="     "))
    return "\n".join([*lines, "", *_report_lines(refusal)])


def headline(refusal: Refusal) -> str:
    """Which gates, how many of their rules, and what that means."""
    failed = [verdict for verdict in refusal.verdicts if not verdict.passed]
    gates = " and ".join(f"the {verdict.gate} gate ({_count(verdict)})" for verdict in failed)
    return f"Blocked by {gates}. {UNTOUCHED}"


def write_page(refusal: Refusal, reports: Path) -> Path:
    """Make the index say that this run was blocked, by which gate and why; returns it."""
    from millrace.report.page import Page

    page = Page("Millrace", f"run of {refusal.run}", passed=False)
    page.heading("This run was blocked", headline(refusal))
    for number, reason in enumerate(_reasons(refusal), 1):
        page.text(f"{number}. {reason}")

    found = [Path(line.partition(": ")[2]) for line in _report_lines(refusal)]
    links = {_report_of(path): os.path.relpath(path, reports) for path in found if path.is_file()}
    if links:
        page.heading("Reports").links(links)
    if before := earlier(reports, refusal.run):
        page.heading("Runs before", "What serves now comes from the last of them that was not blocked.").links(before)
    for verdict in refusal.verdicts:
        page.heading(f"Gate: {verdict.gate}").verdict(verdict)
    return publish(reports, refusal.run, page.html())


def _report_of(path: Path) -> str:
    """`…/evaluations/<id>/report.html` → `Evaluation report`."""
    return f"{path.parent.parent.name.removesuffix('s').replace('_', ' ').capitalize()} report"


def _reasons(refusal: Refusal) -> Iterator[str]:
    for verdict in refusal.verdicts:
        yield from sentences(verdict)
        if not verdict.rules:
            yield f"The {verdict.gate} gate measured nothing. Run again."


def _report_lines(refusal: Refusal) -> list[str]:
    return [line for line in refusal.message.splitlines() if line.startswith("Report: ")]


def _count(verdict: Verdict) -> str:
    return f"{len(verdict.failures)} of {len(verdict.rules)} rules" if verdict.rules else "it measured nothing"
