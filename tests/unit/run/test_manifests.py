"""The Kubernetes objects of a workload: made from templates, committed, and held to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from millrace.installed import load, names
from run.manifests import main, stale, write


@pytest.mark.parametrize("name", names())
def test_what_is_committed_is_what_the_templates_say(name: str) -> None:
    assert stale(name) == []


def test_a_file_that_was_changed_by_hand_is_stale_until_it_is_written_again(tmp_path: Path) -> None:
    write("fraud", tmp_path)
    changed = tmp_path / "fraud" / "rollout" / "role.yaml"
    changed.write_text("kind: Role\n")

    assert stale("fraud", tmp_path) == [changed]

    write("fraud", tmp_path)
    assert stale("fraud", tmp_path) == []


@pytest.mark.parametrize("name", names())
def test_every_object_bears_the_names_of_its_workload_and_no_open_place(name: str, tmp_path: Path) -> None:
    write(name, tmp_path)

    texts = [path.read_text() for path in sorted((tmp_path / name).rglob("*.yaml"))]
    services = [one for text in texts for one in yaml.safe_load_all(text) if one and "spec" in one]

    assert not any("${" in text for text in texts)
    assert load(name).model_name in {one["metadata"]["name"] for one in services}


def test_a_workload_that_is_not_installed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "nobody"]) == 2
    assert "no workload 'nobody'; installed are" in capsys.readouterr().err
