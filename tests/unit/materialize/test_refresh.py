"""A refresh: what it fills the store with, what it leaves, and which feature set it takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from components.materialize import refresh as module
from components.materialize import renewal
from components.materialize.core import materialize, sources_of
from components.materialize.refresh import main, newest_feature_set, newest_refresh, refresh_generation
from fraud import features as f
from fraud import formulas
from fraud.features import VIEWS
from millrace.errors import InvalidInput, NotFound
from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lake.feast_home import filled_with, renewed_to, repository
from millrace.lake.manifest import Manifest
from millrace.lookup import columns_of, recent_of, refreshed_of
from millrace.settings import Settings

CUSTOMERS, TERMINALS = VIEWS
N = 6
FRAUD = load("fraud")
(TERMINALS,) = (view for view in FRAUD.features.VIEWS if not view.recent)
LAST_DAY = datetime(2018, 5, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]
) -> Path:
    folder = tmp_path_factory.mktemp("home")
    build_features(snapshot_of(folder / "lake", simulated_days), folder / "lake", history_length=N, threads=1)
    return folder


@pytest.fixture
def feature_set(home: Path) -> Manifest:
    found = newest_feature_set(home / "lake", "fraud", f.FEATURE_SERVICE, None)
    assert found is not None
    return found


def looked_up(home: Path, customer: str, terminal: str) -> tuple[RecentEvents, list[int]]:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repository(home, "fraud", "served")))
    rows = {"customer_id": [customer], "terminal_id": [terminal]}
    answer = store.get_online_features(store.get_feature_service(f.FEATURE_SERVICE), rows).to_dict()
    return recent_of(answer, CUSTOMERS)[0], refreshed_of(answer, TERMINALS)[0].tolist()


def push(home: Path, customer: str, state: RecentEvents) -> None:
    from feast import FeatureStore
    from pandas import DataFrame

    FeatureStore(repo_path=str(repository(home, "fraud", "served"))).push(
        "customer_state_push", DataFrame(columns_of({customer: state}, CUSTOMERS, "customer_id"))
    )


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        ("2018-05-10T11:59:59+00:00", "2018-05-10T11:00:00+00:00"),
        ("2018-05-10T14:10:00+02:00", "2018-05-10T12:00:00+00:00"),
        ("2018-05-16T12:10:00+00:00", "2018-05-16T12:00:00+00:00"),  # the day after the last: its refreshes are known
        ("2026-01-01T00:00:00+00:00", "2018-05-16T23:00:00+00:00"),  # data that ended long ago
    ],
)
def test_the_refresh_is_the_last_by_now_that_the_data_has(feature_set: Manifest, now: str, wanted: str) -> None:
    assert newest_refresh(feature_set, datetime.fromisoformat(now)).isoformat() == wanted


def test_data_of_the_future_is_refused(feature_set: Manifest) -> None:
    with pytest.raises(InvalidInput, match="begins on 2018-04-01"):
        newest_refresh(feature_set, datetime(2018, 3, 31, tzinfo=UTC))


def test_a_refresh_renews_terminals_and_keeps_what_was_pushed(home: Path, feature_set: Manifest) -> None:
    settings = Settings(home=home)
    materialize(feature_set, home / "lake", home, LAST_DAY, generation="served")
    sources = repository(home, "fraud", "served") / "sources"
    customers = pq.read_table(sources / "customer_state.parquet")["customer_id"].to_pylist()
    terminal = _changed_terminal(feature_set)
    before, old_counts = looked_up(home, customers[0], terminal)
    pushed = before.append(10**9, int(LAST_DAY.timestamp() * 1e6) + 86_400_000_000 - 5, (1234, 0.5), N + 32)
    push(home, customers[0], pushed)

    made = refresh_generation(settings, "served", f.FEATURE_SERVICE, LAST_DAY + timedelta(hours=36, minutes=10))

    assert made is not None
    assert made.as_of.isoformat() == made.filled.facts["as_of"] == "2018-05-16T12:00:00+00:00"
    assert filled_with(repository(home, "fraud", "served")) == made.filled.id
    after, counts = looked_up(home, customers[0], terminal)
    assert after.event_ids.tolist() == pushed.event_ids.tolist()
    assert counts != old_counts
    assert counts == _counts(made.filled, terminal)
    other, _ = looked_up(home, customers[1], terminal)
    assert other.event_ids.tolist() == _transactions(made.filled, customers[1])


def test_a_second_refresh_of_the_same_hour_does_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, feature_set: Manifest
) -> None:
    settings = Settings(home=home)
    first = refresh_generation(settings, "served", f.FEATURE_SERVICE, LAST_DAY + timedelta(hours=6))
    monkeypatch.setattr("components.materialize.store.renew", _never)

    second = refresh_generation(settings, "served", f.FEATURE_SERVICE, LAST_DAY + timedelta(hours=6, minutes=20))

    assert first is not None
    assert second is not None
    assert second == first


def test_a_store_that_knows_all_customers_gets_the_terminals_that_changed(
    home: Path, tmp_path: Path, feature_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day after the last: what a fill from nothing would give, written for those alone that changed."""
    (tmp_path / "lake").symlink_to(home / "lake")
    settings, end = Settings(home=tmp_path), LAST_DAY + timedelta(days=1)
    filled = materialize(feature_set, home / "lake", tmp_path, end, generation="served")
    written: list[int] = []
    put = renewal.replace_rows
    monkeypatch.setattr(
        renewal, "replace_rows", lambda *rest: (written.append(len(rest[1]["terminal_state"])), put(*rest))
    )

    for hours in (9, 15, 15):
        made = refresh_generation(settings, "served", f.FEATURE_SERVICE, end + timedelta(hours=hours, minutes=2))

    assert made is not None
    assert made.filled.id == filled.id
    assert made.as_of == end + timedelta(hours=15)
    assert (
        filled_with(repository(tmp_path, "fraud", "served")),
        renewed_to(repository(tmp_path, "fraud", "served")),
    ) == (filled.id, made.as_of.isoformat())
    assert len(written) == 2
    assert 0 < max(written) < filled.facts["states"]["terminal_state"]
    fresh = sources_of(feature_set, home / "lake", made.as_of)
    for row in pq.read_table(fresh.path("terminal_state.parquet")).to_pylist():
        _, counts = looked_up(tmp_path, "nobody", row["terminal_id"])
        assert counts == [row[name] for name in formulas.TERMINAL_STATE_FIELDS]


def test_renewed_terminals_go_back_with_the_next_run_and_what_was_pushed_stays(
    home: Path, tmp_path: Path, feature_set: Manifest
) -> None:
    """`make run`, a prediction, `make refresh`, `make run`: the store's name is the same, so nobody pushes again."""
    (tmp_path / "lake").symlink_to(home / "lake")
    terminal = _changed_terminal(feature_set)
    filled = materialize(feature_set, home / "lake", tmp_path, LAST_DAY, generation="served")
    before = looked_up(tmp_path, "nobody", terminal)[1]
    assert renewal.renewable(
        feature_set, home / "lake", repository(tmp_path, "fraud", "served"), LAST_DAY + timedelta(hours=36)
    )
    renewal.renew(feature_set, home / "lake", repository(tmp_path, "fraud", "served"), LAST_DAY + timedelta(hours=36))
    assert looked_up(tmp_path, "nobody", terminal)[1] != before
    assert not renewal.renewable(
        feature_set, home / "lake", repository(tmp_path, "fraud", "served"), LAST_DAY - timedelta(hours=1)
    )
    customer = pq.read_table(filled.path("customer_state.parquet"))["customer_id"][0].as_py()
    kept = looked_up(tmp_path, customer, terminal)[0]
    pushed = kept.append(10**9, int(LAST_DAY.timestamp() * 1e6) + 5, (1234, 0.5), N + 32)
    push(tmp_path, customer, pushed)

    again = materialize(feature_set, home / "lake", tmp_path, LAST_DAY, generation="served")

    assert again.id == filled.id == filled_with(repository(tmp_path, "fraud", "served"))
    assert renewed_to(repository(tmp_path, "fraud", "served")) is None
    after, counts = looked_up(tmp_path, customer, terminal)
    assert counts == before
    assert after.event_ids.tolist() == pushed.event_ids.tolist()


def test_what_changed_is_told_from_what_did_not() -> None:
    def states(counts: dict[str, int]) -> pa.Table:
        values = pa.array(counts.values(), pa.int64())
        columns = dict.fromkeys(formulas.TERMINAL_STATE_FIELDS, values)
        return pa.table({"terminal_id": pa.array(counts, pa.string())} | columns)

    rows = renewal.changed(
        "terminal_id", TERMINALS, states({"a": 1, "b": 2, "c": 3}), states({"c": 3, "new": 0, "b": 5})
    )

    assert rows["terminal_id"].to_pylist() == ["new", "b", "a"]
    assert len(renewal.changed("terminal_id", TERMINALS, states({}), states({"a": 1}))) == 1
    (gone,) = renewal.changed("terminal_id", TERMINALS, states({"a": 1, "b": 2}), states({"a": 1})).to_pylist()
    assert gone == {"terminal_id": "b"} | dict.fromkeys(formulas.TERMINAL_STATE_FIELDS, 0)


def test_following_moves_with_each_line_and_says_what_is_wrong(home: Path, feature_set: Manifest) -> None:
    instants = ["2018-05-14T00:00:00", "2018-05-14T01:00:00+00:00", "2018-05-14T00:00:00Z", "yesterday"]
    command = [sys.executable, "-m", "components.materialize", feature_set.uri, "--generation", "served", "--follow"]

    done = subprocess.run(
        command,
        input="".join(f"{instant}\n" for instant in instants),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MILLRACE_HOME": str(home)},
    )

    assert done.returncode == 2
    first, *renewed = done.stdout.splitlines()
    assert (
        first
        == "generation served of the online store as of 2018-05-14T00:00:00+00:00: 40 customer_state, 60 terminal_state"
    )
    for line, hour in zip(renewed, (1, 0), strict=True):
        assert re.fullmatch(rf"generation served as of 2018-05-14T0{hour}:00:00\+00:00: \d+ states changed", line)
    assert "as_of is 'yesterday'" in done.stderr


def test_a_store_that_was_never_filled_is_filled(tmp_path: Path, home: Path) -> None:
    (tmp_path / "lake").symlink_to(home / "lake")

    made = refresh_generation(Settings(home=tmp_path), "served", f.FEATURE_SERVICE, LAST_DAY)

    assert made is not None
    assert filled_with(repository(tmp_path, "fraud", "served")) == made.filled.id


def test_a_feature_set_of_another_source_is_not_served(
    tmp_path: Path,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file scored in batch reaches further than what the store was filled from."""
    lake = tmp_path / "lake"
    served = build_features(snapshot_of(lake, simulated_days[:30]), lake, history_length=N, threads=1)
    other = build_features(snapshot_of(lake, simulated_days[20:40]), lake, history_length=N, threads=1)
    assert newest_feature_set(lake, "fraud", f.FEATURE_SERVICE, None) == other
    sources = {served.parents["snapshot"]: "s3://served", other.parents["snapshot"]: "scored.csv"}
    monkeypatch.setattr(module, "_source_of", lambda _, made: sources[made.parents["snapshot"]])
    materialize(served, lake, tmp_path, datetime(2018, 4, 29, tzinfo=UTC), generation="served")

    made = refresh_generation(Settings(home=tmp_path), "served", f.FEATURE_SERVICE, LAST_DAY)

    assert made.filled.parents["feature_set"] == served.id
    assert newest_feature_set(lake, "fraud", f.FEATURE_SERVICE, "scored.csv") == other


def test_an_empty_lake_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="make run"):
        refresh_generation(Settings(home=tmp_path), "served", f.FEATURE_SERVICE, LAST_DAY)


def test_the_command_wants_a_time_zone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(home))

    status = main(["--now", "2018-05-10T00:00:00"])

    assert status == 2
    assert "time zone" in capsys.readouterr().err


def _never(*_: object) -> None:
    raise AssertionError("the store was filled again")


def _changed_terminal(feature_set: Manifest) -> str:
    """A terminal whose counts at noon of the day after the last are others than at midnight of the last."""
    midnight, noon = LAST_DAY, LAST_DAY + timedelta(hours=36)
    states = [
        {
            row["terminal_id"]: [row[name] for name in formulas.TERMINAL_STATE_FIELDS]
            for row in renewal.states(feature_set, TERMINALS, at).to_pylist()
        }
        for at in (midnight, noon)
    ]
    return next(name for name, counts in states[0].items() if name in states[1] and counts != states[1][name])


def _counts(made: Manifest, terminal: str) -> list[int]:
    (row,) = pq.read_table(made.path("terminal_state.parquet"), filters=[("terminal_id", "=", terminal)]).to_pylist()
    return [row[name] for name in formulas.TERMINAL_STATE_FIELDS]


def _transactions(made: Manifest, customer: str) -> list[int]:
    (row,) = pq.read_table(made.path("customer_state.parquet"), filters=[("customer_id", "=", customer)]).to_pylist()
    found: list[int] = row[formulas.CUSTOMER_STATE_FIELDS[0]]
    return found
