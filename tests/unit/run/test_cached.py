"""A step is answered from kfp's cache only while what it made is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp import dsl
from kfp.local.cache import LocalCache

from millrace.lake.manifest import Manifest, hash_files
from run.cached import drop_stale


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def entry(home: Path, name: str) -> tuple[Path, Manifest]:
    """A step's entry in the cache, and the artifact in the lake whose manifest it handed over."""
    folder = home / "lake" / "models" / name
    folder.mkdir(parents=True)
    (folder / "weights").write_text(name, encoding="utf-8")
    made = Manifest(kind="model", id=name, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
    output = home / "runs" / "outputs" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    made.write(output)
    page = output.with_suffix(".html")
    page.write_text("<p>", encoding="utf-8")
    figures = output.with_suffix(".figures")
    figures.write_text('{"average_precision": 0.5}', encoding="utf-8")
    outputs = {
        "model": dsl.Model(uri=str(output)),
        "report": dsl.HTML(uri=str(page)),
        "metrics": dsl.Metrics(uri=str(figures)),
        "n": 3,
    }
    LocalCache(str(home / "runs" / "cache")).put(name, outputs)
    return home / "runs" / "cache" / f"{name}.json", made


def test_what_is_whole_is_kept_and_what_was_removed_is_made_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = entry(home, "a" * 16)
    gone, made = entry(home, "b" * 16)
    (Path(made.uri) / "weights").unlink()

    assert drop_stale(home / "runs") == 1

    assert (whole.exists(), gone.exists()) == (True, False)
    assert "outputs_are_gone steps=1" in capsys.readouterr().err
    assert drop_stale(home / "runs") == 0


def test_a_home_that_moved_makes_its_steps_outputs_its_own_again(home: Path) -> None:
    entry(home, "a" * 16)
    moved = home.rename(home.with_name("moved"))

    assert drop_stale(moved / "runs") == 1


@pytest.mark.parametrize("name", ["a.html", "a.figures"])
def test_a_page_or_figures_that_were_removed_are_made_again(home: Path, name: str) -> None:
    path, _ = entry(home, "a")
    (home / "runs" / "outputs" / name).unlink()

    assert drop_stale(home / "runs") == 1
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {"uri": "/nowhere"}}'])
def test_an_entry_that_was_cut_short_is_dropped(home: Path, text: str) -> None:
    path, _ = entry(home, "a" * 16)
    path.write_text(text, encoding="utf-8")

    assert drop_stale(home / "runs") == 1
