"""Who wants to take over has to be better, not only not worse."""

import json
from pathlib import Path

import pytest

from components.gate.core import require_gain
from millrace.errors import ArtifactCorrupt, GateBlocked
from millrace.lake.manifest import Manifest, hash_files


def evaluation(folder: Path, champion: object) -> Manifest:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"champion": champion}))
    return Manifest(kind="evaluation", id="e", workload="fraud", uri=str(folder), files=hash_files(folder))


def compared(gain: float | None) -> dict[str, object]:
    figure = {"value": gain, "low": -0.1, "high": 0.1}
    return {"id": "old", "comparison": {"gain": figure, "unit_precision": figure}, "why_not": ""}


def test_a_gain_is_let_through(tmp_path: Path) -> None:
    assert require_gain(evaluation(tmp_path / "e", compared(0.004))).gate == "challenger"


@pytest.mark.parametrize(
    ("champion", "said"),
    [
        (compared(0.0), "over champion old"),
        (compared(-0.02), "over champion old"),
        (compared(float("nan")), "over champion old"),
        (None, "no champion but this very model"),
        ({"id": "old", "comparison": None, "why_not": "it reads other features"}, "it reads other features"),
    ],
)
def test_anything_else_is_blocked_with_the_reason(tmp_path: Path, champion: object, said: str) -> None:
    with pytest.raises(GateBlocked, match="gain") as blocked:
        require_gain(evaluation(tmp_path / "e", champion))

    assert said in str(blocked.value)


def test_a_report_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    judged = evaluation(tmp_path / "e", compared(-0.5))
    (tmp_path / "e" / "report.json").write_text(json.dumps({"champion": compared(0.5)}))

    with pytest.raises(ArtifactCorrupt):
        require_gain(judged)
