"""The KFP face: manifests in, manifest and page out; the gate's face stops on it."""

import pytest
from kfp import dsl

from components.gate.component import gate_data
from components.validate.component import validate as face
from millrace.errors import GateBlocked
from millrace.judge.refusals import refusal_of
from millrace.lake.manifest import Manifest


@pytest.fixture
def run(lake, tmp_path, monkeypatch):
    """Run the face on a snapshot → the path of the validation's manifest."""
    monkeypatch.setenv("MILLRACE_HOME", str(lake.parent))

    def validated(snapshot, **overrides):
        snapshot.write(tmp_path / "snapshot")
        validation = dsl.Dataset(uri=str(tmp_path / "validation"))
        report = dsl.HTML(uri=str(tmp_path / "page"))
        source = dsl.Dataset(uri=str(tmp_path / "snapshot"))
        face.python_func(snapshot=source, validation=validation, report=report, overrides=overrides)
        return validation

    return validated


def test_the_face_writes_the_manifest_and_the_page(run, simulated, snapshot, tmp_path):
    validation = run(snapshot(simulated(30)))

    assert Manifest.read(tmp_path / "validation", "validation").id == validation.metadata["id"]
    assert (tmp_path / "page").read_text().startswith("<!doctype html>")
    assert gate_data.python_func(validation, "run-1") == "data"


def test_the_gate_stops_a_snapshot_that_an_override_refuses_and_says_so_in_the_home(run, simulated, snapshot, lake):
    validation = run(snapshot(simulated(30)), min_days=90)

    with pytest.raises(GateBlocked, match=r"days: 30 \(wanted >= 90\)"):
        gate_data.python_func(validation, "run-1")

    assert "days: 30 (wanted >= 90)" in refusal_of(lake.parent, "run-1").sentence


def test_a_second_snapshot_is_judged_against_the_first(run, simulated, snapshot, tmp_path):
    days = simulated(30)
    run(snapshot(days[:-1], "first"))

    run(snapshot(days, "second"))

    assert Manifest.read(tmp_path / "validation").facts["previous"] == "first"
