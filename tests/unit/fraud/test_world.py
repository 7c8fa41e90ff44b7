"""The world of the demo, by the seam."""

from datetime import date
from pathlib import Path

import pytest

from fraud import world
from fraud.simulator import SimulationConfig
from millrace.installed import load
from millrace.settings import settings
from run.source import simulated


def test_the_demo_s_world_is_the_published_one_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[SimulationConfig, Path]] = []
    monkeypatch.setattr(world, "write", lambda config, folder: asked.append((config, folder)))

    folder = load("fraud").world.simulate(tmp_path)

    assert folder == tmp_path / "simulated-5000x10000x183"
    assert asked == [(SimulationConfig(customers=5_000, terminals=10_000, days=183, start=date(2018, 4, 1)), folder)]


def test_workloads_of_one_home_simulate_into_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setattr(world, "write", lambda config, folder: None)

    folder = Path(simulated(settings("fraud")))

    assert folder.parent == tmp_path / "raw" / "fraud"
