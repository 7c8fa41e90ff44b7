"""The companions' manifests are a cluster's; the local runtime has to be able to run them as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from millrace.installed import load
from millrace.rollout.service import inference_service
from millrace.settings import Settings
from serving.local.manifest import interpreter, read_service
from serving.local.objects import Source, sources
from serving.local.state import Place

NAMES = Settings().companions.split(",")


def companions(place: Place) -> list[Source]:
    """What runs beside the fraud workload's service."""
    manifest = place.manifest("fraud-detector")
    manifest.parent.mkdir(parents=True)
    manifest.write_text(inference_service(load("fraud")))
    return sources(manifest, place, NAMES)[1:]


@pytest.mark.parametrize("name", ["prediction-log", "fraud-detector-drift"])
def test_a_companion_of_the_local_runtime_can_be_run_from_the_clusters_manifest(name: str, tmp_path: Path):
    place = Place(tmp_path)
    found = {item.name: item for item in companions(place)}

    service = read_service(found[name].path, tmp_path)
    args = service.predictor.with_ports(7, 8, "")

    assert "--http_port=7" in args
    assert "--host=127.0.0.1" in args
    assert not any("0.0.0.0" in word or "8080" in word for word in args)
    assert service.predictor.readiness.startswith("/")


def test_what_the_companions_are_called_by_others_is_known(tmp_path: Path):
    place = Place(tmp_path)
    found = {item.name: item for item in companions(place)}

    assert found["fraud-detector-drift"].aliases == ("fraud-detector-drift-events",)
    assert "prediction-log" in found["prediction-log"].aliases


def test_a_deployable_with_pins_of_its_own_runs_in_its_own_environment():
    assert interpreter(["python", "-m", "serving.predictor.server"]) == Path(sys.executable)
    assert interpreter(["python", "-m", "serving.drift_detector.server"]).parent.parent.name == ".venv-drift"
