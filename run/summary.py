"""What a run came to: printed at its end, and the page that links every report of its workload (`index.html`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from millrace.installed import Workload, load
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest
from millrace.report.index import pages
from millrace.report.runs import earlier, publish
from millrace.workload import Task
from run.local import LocalRun

JUDGED = {"data": "validation", "evaluation": "evaluation", "skew": "skew_check"}
"""Gate → pipeline output that carries its verdict."""
FIGURES: Final[dict[Task, dict[str, str]]] = {
    Task.RANKING: {"average_precision": "AP", "unit_precision": "{unit}P@{k}", "auc_roc": "AUC"},
    Task.CLASSIFICATION: {"auc_roc": "AUC", "average_precision": "AP", "brier_skill": "Brier skill"},
    Task.REGRESSION: {"mae": "MAE", "rmse": "RMSE", "coverage": "coverage"},
}
"""What a run is summed up by; the initial of the unit stands before its precision."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A finished run: what was made, how it was judged, and what the replay through the live servers showed."""

    reports: Path
    """Folder of the page."""
    run: LocalRun
    replay: dict[str, Any] | None
    """The replay's report; empty when there was no later day, None when nothing was started."""
    seconds: float

    @property
    def page(self) -> Path:
        return self.reports / "index.html"

    def lines(self) -> Iterator[tuple[str, str]]:
        """Name and value, in the order of the loop."""
        snapshot, training = self.run.outputs["snapshot"], self.run.outputs["training_set"]
        facts, events = snapshot.facts, self.workload.event[1]
        quarantined = sum(facts["quarantined"].values())
        days = f"{facts['first_day']} … {facts['last_day']}"
        yield "snapshot", f"{snapshot.id}  {facts['rows']:,} {events}, {days}, {quarantined:,} quarantined"
        splits = training.facts["splits"]
        yield "training set", f"{training.id}  " + ", ".join(f"{n} {s['rows']:,}" for n, s in splits.items())
        promotion = self.run.outputs["promotion"].facts
        yield "model", f"{promotion['model_name']} version {promotion['model_version']} ({promotion['alias']})"
        week = splits["test"]["last_day"] == str(date.fromisoformat(training.facts["test_start"]) + timedelta(days=6))
        name = "test week" if week else "test days"
        yield name, f"from {training.facts['test_start']}: " + "  ".join(self._figures())
        for verdict in self.verdicts():
            accepted = "".join(f"; accepted: {rule.name} ({rule.accepted})" for rule in verdict.accepted)
            yield f"gate {verdict.gate}", f"passed, {len(verdict.rules)} rules{accepted}"
        if self.replay:
            yield "served", self._served()
        yield "took", f"{self.seconds:.0f} s"

    @property
    def workload(self) -> Workload:
        return load(self.run.outputs["snapshot"].workload)

    def verdicts(self) -> list[Verdict]:
        return [Verdict.read(self.run.outputs[name].path("verdict.json")) for name in JUDGED.values()]

    def links(self) -> dict[str, str]:
        """What to open, and how."""
        return {
            "this page": str(self.page),
            "data report": str(self.run.outputs["validation"].path("report.html")),
            "evaluation report": str(self.run.outputs["evaluation"].path("report.html")),
            "MLflow": "make mlflow",
            "Feast": "make feast",
            "servers": "make status, make predict, make down",
            "log of the run": str(self.run.log_path),
        }

    def show(self) -> None:
        """Print it."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in [*self.lines(), ("", ""), *self.links().items()]:
            table.add_row(name, value, style=None)
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    def write_page(self) -> None:
        """The index of reports; links are relative, so the home can be moved."""
        from millrace.report.page import Page

        run = self.run.log_path.stem
        before = earlier(self.reports, run)
        page = Page("Millrace", f"run of {run}")
        page.heading("This run").table(["", ""], self.lines())
        reports = [("Data", self.run.outputs["validation"]), ("Evaluation", self.run.outputs["evaluation"])]
        page.heading("Reports").links(
            {f"{name} report": self._relative(m) for name, m in reports} | pages(self.reports)
        )
        for verdict in self.verdicts():
            page.heading(f"Gate: {verdict.gate}").verdict(verdict)
        page.heading("Steps").table(["step", "seconds"], sorted(self.run.seconds.items(), key=lambda item: -item[1]))
        page.heading("Artifacts", "Ids are hashes of content; `millrace lineage <id>` prints where one came from.")
        rows = [[m.kind, m.id, m.uri] for m in self.run.outputs.values()]
        page.table(["kind", "id", "folder"], rows)
        if before:
            page.heading("Runs before").links(before)
        publish(self.reports, run, page.html())

    def _relative(self, artifact: Manifest) -> str:
        return os.path.relpath(artifact.path("report.html"), self.page.parent)

    def _figures(self) -> Iterator[str]:
        facts, unit = self.run.outputs["evaluation"].facts, self.workload.judging.UNIT_NOUN[0]
        for name, title in FIGURES[self.workload.task].items():
            value, low, high = (facts["metrics"][name + end] for end in ("", "_low", "_high"))
            label = title.format(unit=unit[0].upper(), k=facts.get("review_capacity"))
            yield f"{label} {value:.3f} [{low:.3f}, {high:.3f}]"

    def _served(self) -> str:
        replay = self.replay or {}
        return (
            f"{replay['rows']:,} {self.workload.event[1]} of {replay['day']} replayed, scores equal "
            f"(largest difference {replay['max_difference']:.0e}), p50 {replay['p50_ms']:.1f} ms, "
            f"p99 {replay['p99_ms']:.1f} ms, {replay['requests_per_s']:.0f} requests/s"
        )
