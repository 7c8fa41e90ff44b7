"""The lines at the end of a run speak of the workload's own figures and events."""

from pathlib import Path
from typing import Any

import pytest

from millrace.installed import Workload
from millrace.lake.manifest import Manifest
from run.local import LocalRun
from run.summary import Summary


def finished(tmp_path: Path, workload: str, figures: tuple[str, ...], last_day: str, **facts: Any) -> Summary:
    """A run whose figures are all 0.5."""

    def made(kind: str, **facts: Any) -> Manifest:
        return Manifest(kind=kind, id=kind, workload=workload, uri=str(tmp_path), facts=facts)

    metrics = {f"{name}{end}": 0.5 for name in figures for end in ("", "_low", "_high")}
    splits = {"train": {"rows": 9}, "test": {"rows": 1, "last_day": last_day}}
    outputs = {
        "snapshot": made("snapshot", rows=10, quarantined={}, first_day="2021-01-01", last_day="2021-02-01"),
        "training_set": made("training_set", splits=splits, test_start="2021-01-20"),
        "promotion": made("promotion", model_name="m", model_version=1, alias="champion"),
        "evaluation": made("evaluation", metrics=metrics, **facts),
    }
    return Summary(tmp_path, LocalRun(outputs, {}, tmp_path / "log"), None, 1.0)


def lines(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(Summary, "verdicts", lambda _: [])
    return dict(summary.lines())


def test_a_ranking_is_summed_up_by_its_precision_and_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = ("average_precision", "unit_precision", "auc_roc")

    said = lines(finished(tmp_path, "fraud", figures, "2021-01-26", review_capacity=100), monkeypatch)

    assert "10 transactions" in said["snapshot"]
    assert "AP 0.500 [0.500, 0.500]  CP@100 0.500" in said["test week"]


def test_a_quantity_is_summed_up_by_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: Workload
) -> None:
    said = lines(finished(tmp_path, machines.name, ("mae", "rmse", "coverage"), "2021-01-22"), monkeypatch)

    assert "10 readings" in said["snapshot"]
    assert said["test days"] == (
        "from 2021-01-20: MAE 0.500 [0.500, 0.500]  RMSE 0.500 [0.500, 0.500]  coverage 0.500 [0.500, 0.500]"
    )
