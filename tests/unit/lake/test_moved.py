"""A home in another place than it was made in: what names the old place names the new one afterwards."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from millrace.lake.moved import settle

SERVICE = """\
spec:
  predictor:
    containers:
    - name: kserve-container
      env:
      - name: STORAGE_URI
        value: {uri}
"""
STORE = """\
registry:
  path: sqlite:///{home}/feast/fraud/registry.db
online_store:
  path: {home}/feast/fraud/online_store.db
"""


def make(home: Path) -> Path:
    """A home as a promotion and a filled store leave it."""
    models = home / "serving" / "models" / "fraud-detector"
    (models / "1").mkdir(parents=True)
    document = SERVICE.format(uri=(models / "1").as_uri())
    for path in (models / "1.yaml", home / "serving" / "fraud-detector.yaml"):
        path.write_text(document, encoding="utf-8")

    (home / "lake" / "online" / "abc").mkdir(parents=True)
    (home / "feast" / "fraud").mkdir(parents=True)
    (home / "feast" / "fraud" / "sources").symlink_to(home / "lake" / "online" / "abc")
    (home / "feast" / "fraud" / "feature_store.yaml").write_text(STORE.format(home=home), encoding="utf-8")

    (home / "mlflow").mkdir()
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE model_versions (source TEXT, storage_location TEXT)")
        database.execute("INSERT INTO model_versions VALUES (?, ?)", [(models / "1").as_uri(), "s3://elsewhere/1"])
    return home


def storage(path: Path) -> str:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(document["spec"]["predictor"]["containers"][0]["env"][0]["value"])


@pytest.mark.parametrize("name", ["moved", "bob's home [1] ü"])
def test_every_name_of_the_old_place_becomes_one_of_the_new(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make(tmp_path / "old")
    new = old.rename(tmp_path / name)

    assert settle(new) == old

    version = new / "serving" / "models" / "fraud-detector" / "1"
    assert storage(new / "serving" / "fraud-detector.yaml") == version.as_uri()
    assert storage(version.with_suffix(".yaml")) == version.as_uri()
    store = yaml.safe_load((new / "feast" / "fraud" / "feature_store.yaml").read_text(encoding="utf-8"))
    assert store["online_store"]["path"] == f"{new}/feast/fraud/online_store.db"
    assert store["registry"]["path"] == f"sqlite:///{new}/feast/fraud/registry.db"
    assert (new / "feast" / "fraud" / "sources").resolve() == (new / "lake" / "online" / "abc").resolve()
    with closing(sqlite3.connect(new / "mlflow" / "mlflow.db")) as database:
        assert database.execute("SELECT * FROM model_versions").fetchall() == [(version.as_uri(), "s3://elsewhere/1")]
    told = capsys.readouterr().err
    assert told.count("home_moved") == 1
    assert settle(new) is None


def test_a_home_that_did_not_move_is_left_alone(tmp_path: Path) -> None:
    home = make(tmp_path / "home")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    (tmp_path / "link").symlink_to(home)

    assert settle(home) is None
    assert settle(tmp_path / "link") is None
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_copy_of_a_home_serves_its_own_models(tmp_path: Path) -> None:
    old = make(tmp_path / "old")
    copy = make(tmp_path / "copy")
    (copy / "serving" / "fraud-detector.yaml").write_text(
        (old / "serving" / "fraud-detector.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )

    settle(copy)

    assert str(copy) in storage(copy / "serving" / "fraud-detector.yaml")
    assert str(old) in storage(old / "serving" / "fraud-detector.yaml")


def test_a_model_that_this_home_lacks_keeps_its_place(tmp_path: Path) -> None:
    home = make(tmp_path / "home")
    elsewhere = "file:///mnt/shared/serving/models/fraud-detector/9"
    (home / "serving" / "fraud-detector.yaml").write_text(SERVICE.format(uri=elsewhere), encoding="utf-8")

    assert settle(home) is None
    assert storage(home / "serving" / "fraud-detector.yaml") == elsewhere
