"""`millrace score FILE` as a person meets it: files in, files and one line out, nothing lost on the way."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from fraud import schema
from millrace.cli import main
from millrace.lake.manifest import Manifest
from millrace.pseudonyms import pseudonymise
from millrace.registry.models import Registry
from millrace.settings import Settings

N = 16
SERVED = 'metadata: {annotations: {millrace.io/model-version: "1"}}\n'


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    tiny_model: Callable[..., Path],
) -> Path:
    """A home whose champion was made from all days but the last."""
    home = tmp_path_factory.mktemp("home")
    here = Settings(home=home)
    days = [_with_pseudonyms(table, here) for table in simulated_days[:-1]]
    features = build_features(snapshot_of(here.lake, days), here.lake, history_length=N, threads=1)
    folder = Registry(here).folder(1)
    shutil.copytree(tiny_model("scored", history_length=N, threshold=0.3, every_input=True), folder)
    replace(Manifest.lying_in(folder, "model"), parents=features.as_parents()).write()
    Registry(here).served_path.write_text(SERVED)
    return home


@pytest.fixture
def raw(simulated_days: list[pa.Table]) -> pa.Table:
    """The last day as a person has it: before anybody knows which are frauds."""
    return simulated_days[-1].select(["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount"])


def _with_pseudonyms(rows: pa.Table, here: Settings) -> pa.Table:
    rows = rows.select(schema.EVENTS.names)
    hidden = pseudonymise(rows["customer_id"], here.pseudonym_secret())
    return rows.set_column(2, "customer_id", hidden).cast(schema.EVENTS)


def score(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    return main(["score", *arguments])


def test_a_day_without_labels_is_scored_into_a_file_beside_it(
    home: Path, raw: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pacsv.write_csv(raw, tmp_path / "bob's rows [1] ü.csv")

    status = score(home, monkeypatch, str(tmp_path / "bob's rows [1] ü.csv"))

    told = capsys.readouterr().err
    assert status == 0, told
    with (tmp_path / "bob's rows [1] ü.scores.csv").open(encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    assert sorted(int(row["transaction_id"]) for row in found) == sorted(raw["transaction_id"].to_pylist())
    assert {row["decision"] for row in found} == {"review", "approve"}
    assert all((row["decision"] == "review") == (float(row["score"]) >= 0.3) for row in found)
    assert any(json.loads(row["reasons"]) for row in found if row["decision"] == "review")
    assert all(row["unseen"] == "[]" for row in found)
    assert f"{len(raw):,} transactions scored by version 1" in told
    assert f"{len(raw):,} of them with a known state" in told


def test_parquet_in_is_parquet_out_and_each_row_says_where_it_stood(
    home: Path, raw: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backwards = raw.take(pa.array(range(len(raw) - 1, -1, -1)))
    pq.write_table(backwards, tmp_path / "rows.parquet")

    assert score(home, monkeypatch, str(tmp_path / "rows.parquet")) == 0

    found = pq.read_table(tmp_path / "rows.scores.parquet")
    ids = backwards["transaction_id"].to_pylist()
    assert [ids[row - 1] for row in found["source_row"].to_pylist()] == found["transaction_id"].to_pylist()
    assert found["event_timestamp"].to_pylist() == sorted(raw["event_timestamp"].to_pylist())


def test_rows_that_cannot_be_read_are_listed_and_the_others_scored(
    home: Path, raw: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pacsv.write_csv(raw.slice(0, 6), tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    changed = [*lines[:2], lines[1], lines[2].rpartition(",")[0] + ",much", lines[3] + ",more", *lines[4:]]
    (tmp_path / "rows.csv").write_text("\n".join(changed) + "\n", encoding="utf-8")

    status = score(home, monkeypatch, str(tmp_path / "rows.csv"), "-o", str(tmp_path / "out.csv"))

    assert status == 3
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("3 rows could not be read")
    listing = tmp_path / "out.csv.rejected.csv"
    assert str(listing) in told[-1]
    with listing.open(encoding="utf-8") as stream:
        rejected = {int(row["source_row"]): row["reason"] for row in csv.DictReader(stream)}
    assert rejected == {2: "duplicate", 3: "amount_unreadable", 4: "malformed_row"}
    assert listing.stat().st_mode & 0o077 == 0
    with (tmp_path / "out.csv").open(encoding="utf-8") as stream:
        assert [int(row["source_row"]) for row in csv.DictReader(stream)] == [1, 5, 6, 7]


def test_nothing_is_overwritten_unless_it_is_asked_for(
    home: Path, raw: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(raw.slice(0, 3), tmp_path / "rows.parquet")
    (tmp_path / "mine.csv").write_text("mine", encoding="utf-8")
    command = [str(tmp_path / "rows.parquet"), "-o", str(tmp_path / "mine.csv")]

    refused = score(home, monkeypatch, *command)
    kept = (tmp_path / "mine.csv").read_text(encoding="utf-8")
    forced = score(home, monkeypatch, *command, "--force")

    assert (refused, kept, forced) == (2, "mine", 0)
    assert "is there already. Name another file with -o, or overwrite it with --force" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text(encoding="utf-8").startswith('"transaction_id"')


def test_a_dash_writes_rows_alone_to_stdout(
    home: Path,
    raw: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    pq.write_table(raw.slice(0, 3), tmp_path / "rows.parquet")

    assert score(home, monkeypatch, str(tmp_path / "rows.parquet"), "-o", "-", "--reasons", "none") == 0

    rows = list(csv.DictReader(capfdbinary.readouterr().out.decode().splitlines()))
    assert len(rows) == 3
    assert {row["reasons"] for row in rows} == {"[]"}


def test_without_a_file_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        score(home, monkeypatch)

    assert ended.value.code == 2
    assert "no file to score. Name one: millrace score rows.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["-o", "scores.xlsx"], "wanted a name that ends in .parquet, .csv, .csv.gz"),
        (["-o", "/nowhere/at/all.csv"], "is no folder that you may write to"),
        (["--model", "7"], "no manifest at"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(
    home: Path,
    raw: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    wanted: str,
) -> None:
    pq.write_table(raw.slice(0, 3), tmp_path / "rows.parquet")

    status = score(home, monkeypatch, str(tmp_path / "rows.parquet"), *given)

    assert status in (1, 2)
    told = capsys.readouterr().err
    assert wanted in told
    assert "reading" not in told


def test_a_file_of_which_no_row_is_good_leaves_a_list_and_no_scores(
    home: Path, raw: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(raw.slice(0, 3).set_column(4, "amount", pa.array([-1.0] * 3)), tmp_path / "rows.parquet")

    status = score(home, monkeypatch, str(tmp_path / "rows.parquet"))

    assert status == 2
    assert "no row can be scored: amount_negative 3" in capsys.readouterr().err
    assert not (tmp_path / "rows.scores.parquet").exists()
    assert (tmp_path / "rows.scores.parquet.rejected.csv").is_file()
