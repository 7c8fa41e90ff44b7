"""Rows scored as of their own time: equal to whole days and to the endpoint's code, honest about what was known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from components.score.core import score
from components.score.known import Known, known_before, nothing_known
from components.score.rows import Scorer
from fraud import schema
from fraud.formulas import TERMINAL_STATE_FIELDS
from millrace.errors import NotFound
from millrace.features.events import engine
from millrace.inputs import Requests, States, recent
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest
from millrace.lake.states import recent_states, refreshed_states
from millrace.registry.model_artifact import ModelArtifact

FRAUD = load("fraud")
N = 16


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def days(simulated_days: list[pa.Table]) -> list[pa.Table]:
    return [table.select(schema.EVENTS.names).cast(schema.EVENTS) for table in simulated_days]


@pytest.fixture(scope="module")
def made(
    lake: Path, days: list[pa.Table], snapshot_of: Callable[..., Manifest], tiny_model: Callable[..., Path]
) -> tuple[Manifest, Manifest]:
    """The feature set of all days but the last two, and a model that was made from it."""
    features = build_features(snapshot_of(lake, days[:-2]), lake, history_length=N, threads=1)
    folder = tiny_model("rows", history_length=N, threshold=0.6, every_input=True)
    return features, replace(Manifest.read(folder, "model"), parents=features.as_parents())


def scored(model: Manifest, rows: pa.Table, before: Known, reasons: str = "flagged") -> tuple[pa.Table, int]:
    artifact = ModelArtifact.open(model.fetch())
    scorer = Scorer(artifact=artifact, version="3", reasons=reasons, threads=1)
    answers = list(scorer.score(rows, before))
    return pa.concat_tables([one.table for one in answers]), sum(one.known for one in answers)


def unlabelled(rows: pa.Table) -> pa.Table:
    for name in ("is_fraud", "label_timestamp"):
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.nulls(len(rows), field.type))
    return rows.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")])


def whole_day(lake: Path, snapshot: Manifest, model: Manifest, day: str) -> pa.Table:
    features = build_features(snapshot, lake, history_length=N, threads=1)
    (path,) = score(features, model, "3", lake, first_day=day, last_day=day).table("scores")
    return pq.read_table(path, partitioning=None)


def test_a_new_day_alone_has_the_scores_of_the_same_day_in_a_longer_history(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest], snapshot_of: Callable[..., Manifest]
) -> None:
    _, model = made
    day = str(days[-2]["event_timestamp"][0].as_py().date())
    rows = unlabelled(days[-2])

    before, labelled = known_before(rows, model, lake, threads=1, memory_limit_gb=1.0)
    found, known = scored(model, labelled, before)

    wanted = whole_day(lake, snapshot_of(lake, [*days[:-2], rows]), model, day)
    assert found["transaction_id"].equals(wanted["transaction_id"])
    np.testing.assert_array_equal(found["score"].to_numpy(), wanted["score"].to_numpy())
    assert found["decision"].to_pylist() == wanted["decision"].to_pylist()
    assert known == len(rows)


def test_the_second_of_two_new_days_sees_the_first(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest], snapshot_of: Callable[..., Manifest]
) -> None:
    _, model = made
    rows = unlabelled(pa.concat_tables(days[-2:]))
    day = str(days[-1]["event_timestamp"][0].as_py().date())

    before, labelled = known_before(rows, model, lake, threads=1, memory_limit_gb=1.0)
    found, _ = scored(model, labelled, before)

    wanted = whole_day(lake, snapshot_of(lake, [*days[:-2], *map(unlabelled, days[-2:])]), model, day)
    newest = found.filter(pc.is_in(found["transaction_id"], wanted["transaction_id"].combine_chunks()))
    np.testing.assert_array_equal(newest["score"].to_numpy(), wanted["score"].to_numpy())


def test_rows_of_the_models_own_data_do_not_see_themselves_nor_what_came_later(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest]
) -> None:
    features, model = made
    day = days[-6]
    wanted = pq.read_table(
        score(features, model, "3", lake, first_day=str(day["event_timestamp"][0].as_py().date())).table("scores")[0],
        partitioning=None,
    )
    rows = unlabelled(day)

    before, labelled = known_before(rows, model, lake, threads=1, memory_limit_gb=1.0)
    found, _ = scored(model, labelled, before)

    np.testing.assert_array_equal(found["score"].to_numpy(), wanted["score"].to_numpy())
    assert labelled["is_fraud"].null_count == 0
    assert pc.max(before.events["event_timestamp"]).as_py().date() <= day["event_timestamp"][0].as_py().date()


def test_one_row_has_the_score_and_the_reasons_of_the_endpoint(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest]
) -> None:
    features, model = made
    artifact = ModelArtifact.open(model.fetch())
    rows = unlabelled(days[-2]).slice(0, 1)
    event_us = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    requests = Requests(
        rows["transaction_id"].to_numpy(),
        event_us,
        {"customer": rows["customer_id"].to_pylist(), "terminal": rows["terminal_id"].to_pylist()},
        {"amount": np.array([int(rows["amount"][0].as_py() * 100)])},
    )
    states = stored(features, rows)
    inputs = FRAUD.online.model_inputs(requests, states, history_length=N, sequence_length=8)
    variants = FRAUD.explain.variants(requests, states, history_length=N, sequence_length=8)

    before, labelled = known_before(rows, model, lake, threads=1, memory_limit_gb=1.0)
    found, _ = scored(model, labelled, before, reasons="all")

    score_online = artifact.score(*inputs)[0]
    np.testing.assert_allclose(found["score"][0].as_py(), score_online, rtol=1e-6)
    falls = dict(zip(FRAUD.explain.GROUPS, (score_online - artifact.score(*variants)).tolist(), strict=True))
    for reason in found["reasons"][0].as_py():
        assert reason["effect"] == pytest.approx(falls[reason["input"]], abs=2e-4)
    assert found["unseen"].to_pylist() == [[]]


def stored(features: Manifest, rows: pa.Table) -> States:
    """What the online store would hold of a row's customer and terminal at the row's midnight."""
    customers, terminals = (next(v for v in FRAUD.features.VIEWS if v.recent is recent) for recent in (True, False))
    midnight = rows["event_timestamp"].cast(pa.int64())[0].as_py() // DAY_US * DAY_US
    with engine(1, 1.0) as connection:
        held = recent_states(connection, FRAUD, customers, features.table("events"), midnight, N)
    mine = held.filter(pc.equal(held["customer_id"], rows["customer_id"][0])).to_pylist()[0]
    history = recent(*(np.array(mine[name]) for name in customers.fields))
    refresh = rows["event_timestamp"][0].as_py().replace(minute=0, second=0, microsecond=0)
    terms = refreshed_states(FRAUD, terminals, features.table("terminal_state")[-1], refresh)
    state = terms.filter(pc.equal(terms["terminal_id"], rows["terminal_id"][0])).to_pylist()
    values = [state[0][name] if state else 0 for name in TERMINAL_STATE_FIELDS]
    return States({customers.name: [history]}, {terminals.name: np.array([values], np.int64)})


def test_a_row_of_nobody_known_says_so_and_is_scored_all_the_same(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest]
) -> None:
    _, model = made
    row = unlabelled(days[-2]).slice(0, 1)
    for name in ("customer_id", "terminal_id"):
        row = row.set_column(row.schema.get_field_index(name), row.schema.field(name), pa.array(["nobody"]))

    before, labelled = known_before(row, model, lake, threads=1, memory_limit_gb=1.0)
    found, known = scored(model, labelled, before)

    assert found["unseen"].to_pylist() == [["customer", "terminal"]]
    assert (known, len(found)) == (0, 1)
    assert np.isfinite(found["score"].to_numpy()).all()


def test_years_without_a_row_cost_no_day_each_and_lose_nothing(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = made
    rows = unlabelled(days[-2])
    later = rows.slice(0, 3)
    moved = pc.add(later["event_timestamp"], pa.scalar(timedelta(days=3000), pa.duration("us")))
    later = later.set_column(1, later.schema.field(1), moved)
    later = later.set_column(0, later.schema.field(0), pc.add(later["transaction_id"], 10**9))
    computed: list[int] = []
    daily = FRAUD.batch.daily

    def counted(*given: object) -> object:
        for day in daily(*given):
            computed.append(1)
            yield day

    monkeypatch.setattr(FRAUD.batch, "daily", counted)
    before, labelled = known_before(pa.concat_tables([rows, later]), model, lake, threads=1, memory_limit_gb=1.0)
    found, known = scored(model, labelled, before)

    assert len(computed) == 2
    assert len(found) == len(rows) + 3
    assert known == len(found)


def test_without_a_history_the_files_own_earlier_rows_are_what_is_known(
    days: list[pa.Table], made: tuple[Manifest, Manifest]
) -> None:
    _, model = made
    rows = unlabelled(pa.concat_tables(days[-3:]))

    found, known = scored(model, rows, nothing_known(FRAUD))

    assert found["unseen"][0].as_py() == ["customer", "terminal"]
    assert 0 < known < len(rows)


def test_a_lake_that_has_lost_the_data_is_named_with_what_to_do(
    days: list[pa.Table], made: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    _, model = made

    with pytest.raises(NotFound, match=r"snapshot .* is not in .* --no-history"):
        known_before(unlabelled(days[-2]), model, tmp_path, threads=1, memory_limit_gb=1.0)


def test_the_first_day_of_the_data_has_nothing_before_it(
    lake: Path, days: list[pa.Table], made: tuple[Manifest, Manifest]
) -> None:
    _, model = made
    earlier = unlabelled(days[0])
    moved = pc.subtract(earlier["event_timestamp"], pa.scalar(timedelta(days=400), pa.duration("us")))
    earlier = earlier.set_column(1, earlier.schema.field(1), moved)

    before, _ = known_before(earlier, model, lake, threads=1, memory_limit_gb=1.0)

    assert len(before.events) == 0
    assert date.fromisoformat("2018-01-01") > pc.max(earlier["event_timestamp"]).as_py().date()
