"""`millrace doctor`: a whole home has no finding, and each kind of damage has its own, with what mends it."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from millrace.cli import main
from millrace.lake.feast_home import Fill, record_fill
from millrace.lake.manifest import Manifest, hash_files
from millrace.settings import Settings
from serving.local.doctor import home as checks
from serving.local.records import Record

SERVICE = """\
metadata: {{annotations: {{millrace.io/model-version: "1"}}}}
spec: {{predictor: {{containers: [{{name: kserve-container, env: [{{name: STORAGE_URI, value: "{uri}"}}]}}]}}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that serves a version, and whose databases are whole."""
    home = tmp_path / "home"
    folder = home / "serving" / "models" / "fraud-detector" / "1"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("{}", encoding="utf-8")
    facts = {"generation": "g1"}
    Manifest(
        kind="model", id="a" * 16, workload="fraud", uri=str(folder), files=hash_files(folder), facts=facts
    ).write()
    (home / "serving" / "fraud-detector.yaml").write_text(SERVICE.format(uri=folder.as_uri()), encoding="utf-8")
    for name in ("mlflow/mlflow.db", "feast/fraud/g1/online_store.db"):
        (home / name).parent.mkdir(parents=True)
        with closing(sqlite3.connect(home / name)) as database, database:
            record_fill(database, Fill("b"))
            database.execute("CREATE TABLE registered_model_aliases (name TEXT, alias TEXT, version INTEGER)")
            database.execute("CREATE TABLE filler (text TEXT)")
            database.executemany("INSERT INTO filler VALUES (?)", [("x" * 900,)] * 50)
    (home / "audit.jsonl").write_text('{"action": "promote"}\n', encoding="utf-8")
    (home / "pseudonym.key").write_text("key", encoding="utf-8")
    (home / "pseudonym.key").chmod(0o600)
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    return home


def damaged_database(home: Path) -> None:
    path = home / "mlflow" / "mlflow.db"
    path.write_bytes(path.read_bytes()[:9_000])


def changed_model(home: Path) -> None:
    (home / "serving/models/fraud-detector/1/model.json").write_text("{", encoding="utf-8")


def cut_manifest(home: Path) -> None:
    path = home / "serving" / "fraud-detector.yaml"
    path.write_text(path.read_text(encoding="utf-8")[:20], encoding="utf-8")


def half_done_change(home: Path) -> None:
    (home / "fraud-detector.intent.json").write_text("{}", encoding="utf-8")


def lost_version(home: Path) -> None:
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database, database:
        database.execute("INSERT INTO registered_model_aliases VALUES ('fraud-detector', 'previous', 7)")


def never_filled(home: Path) -> None:
    (home / "feast" / "fraud" / "g1" / "online_store.db").unlink()


def dead_process(home: Path) -> None:
    path = home / "serving" / "run" / "predictor.json"
    path.parent.mkdir()
    Record(2**22 + 1, ["python", "-m", "serving.predictor"], "e", 1, 2, "then").write(path)


def open_key(home: Path) -> None:
    (home / "pseudonym.key").chmod(0o644)


def clock_set_back(home: Path) -> None:
    later = time.time() + 7200
    os.utime(home / "audit.jsonl", (later, later))


def cut_audit(home: Path) -> None:
    (home / "audit.jsonl").write_text('{"action": "promote"}\n{"act', encoding="utf-8")


def moved(home: Path) -> None:
    path = home / "serving" / "fraud-detector.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(str(home), "/an/old/place"), encoding="utf-8")


DAMAGE = [
    (damaged_database, "database", "mlflow.db"),
    (changed_model, "served model", "sha256 is"),
    (cut_manifest, "served model", "cannot be read"),
    (half_done_change, "registry", "begun and not finished"),
    (lost_version, "registry", "previous of fraud-detector is version 7"),
    (never_filled, "online store", "make refresh WORKLOAD=fraud"),
    (dead_process, "processes", "is recorded and does not run"),
    (open_key, "home", "chmod 600"),
    (clock_set_back, "clock", "2.0 h ahead"),
    (cut_audit, "audit", "line 2"),
    (moved, "place", "/an/old/place"),
]


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    status = main(["doctor", "--json", *arguments])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return status, [one for one in findings if one["wrong"] and one["about"] in ABOUT_HOMES]


ABOUT_HOMES = {about for _, about, _ in DAMAGE}


def test_a_whole_home_has_no_finding_and_is_not_changed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}

    _, found = report(capsys)

    assert found == []
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


@pytest.mark.parametrize(("damage", "about", "told"), DAMAGE)
def test_each_damage_is_said_with_what_mends_it(
    home: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], about: str, told: str
) -> None:
    damage(home)

    status, found = report(capsys)

    assert status == 1
    assert any(one["about"] == about and told in f"{one['what']} {one['mend']}" for one in found), found
    assert all(one["mend"] for one in found)


def test_fix_mends_a_moved_home_and_forgets_the_dead(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved(home)
    dead_process(home)

    report(capsys, "--fix")
    _, found = report(capsys)

    assert found == []


def test_a_home_of_somebody_else_is_named_with_both_users(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)

    (finding, *_) = checks.permissions(Settings(home=home))

    assert "cannot be written by" in finding.what
    assert "chown" in finding.mend


def test_a_home_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    (finding,) = checks.permissions(Settings(home=tmp_path / "none"))

    assert not finding.wrong
    assert finding.mend == "Make one: make run"
