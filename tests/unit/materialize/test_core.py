"""The online store as of an instant: what is in it, when it is replaced, and that a kill leaves it whole."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from components.materialize import core
from components.materialize.core import materialize, sources_of
from components.materialize.store import Aside
from fraud import features as f
from fraud import formulas
from fraud.features import VIEWS
from millrace.errors import InvalidInput
from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lake.feast_home import DATABASE, filled_with, repository
from millrace.lake.manifest import Manifest
from millrace.lookup import columns_of, recent_of, refreshed_of

CUSTOMERS, TERMINALS = VIEWS
N = 6
AS_OF = datetime(2018, 5, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def feature_set(lake: Path, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]) -> Manifest:
    return build_features(snapshot_of(lake, simulated_days), lake, history_length=N, threads=1)


def lookup(home: Path, customers: list[str], terminals: list[str]) -> dict[str, list[Any]]:
    """As the transformer does it: open the folder, ask for the service by name."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repository(home, "fraud", "served")))
    rows = {"customer_id": customers, "terminal_id": terminals}
    answer: dict[str, list[Any]] = store.get_online_features(
        store.get_feature_service(f.FEATURE_SERVICE), rows
    ).to_dict()
    return answer


def history_of(simulated_days: list[pa.Table], customer: str, before: datetime) -> list[dict[str, Any]]:
    rows = [row for day in simulated_days for row in day.to_pylist()]
    mine = [row for row in rows if row["customer_id"] == customer and row["event_timestamp"] < before]
    return sorted(mine, key=lambda row: (row["event_timestamp"], row["transaction_id"]))


def test_the_store_holds_what_came_before_the_instant(
    tmp_path: Path, lake: Path, feature_set: Manifest, simulated_days: list[pa.Table]
) -> None:
    """In the middle of a day: the transaction of that instant is not in; the refresh is the last before it."""
    row = simulated_days[30].slice(40, 1).to_pylist()[0]
    as_of, customer, terminal = row["event_timestamp"], row["customer_id"], row["terminal_id"]

    result = materialize(feature_set, lake, tmp_path, as_of, generation="served")

    answer = lookup(tmp_path, [customer, "nobody"], [terminal, "nowhere"])
    known, unknown = recent_of(answer, CUSTOMERS)
    wanted = history_of(simulated_days, customer, as_of)[-N:]
    assert known.event_ids.tolist() == [row["transaction_id"] for row in wanted]
    assert known.values[0].tolist() == [int(row["amount"] * 100) for row in wanted]
    assert len(unknown) == 0
    refresh = pq.read_table(feature_set.table("terminal_state", as_of.date(), as_of.date())[0]).to_pylist()
    here = [row for row in refresh if row["terminal_id"] == terminal and row["event_timestamp"] <= as_of]
    stored = max(here, key=lambda row: row["event_timestamp"])
    assert refreshed_of(answer, TERMINALS)[0].tolist() == [stored[name] for name in formulas.TERMINAL_STATE_FIELDS]
    assert not refreshed_of(answer, TERMINALS)[1].any()
    assert result.facts["as_of"] == as_of.isoformat()
    assert filled_with(repository(tmp_path, "fraud", "served")) == result.id


def test_the_same_instant_again_keeps_what_was_pushed_and_another_replaces_it(
    tmp_path: Path, lake: Path, feature_set: Manifest
) -> None:
    from feast import FeatureStore
    from pandas import DataFrame

    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    customer = pq.read_table(repository(tmp_path, "fraud", "served") / "sources" / "customer_state.parquet")[
        "customer_id"
    ][0].as_py()
    server = FeatureStore(repo_path=str(repository(tmp_path, "fraud", "served")))
    service = server.get_feature_service(f.FEATURE_SERVICE)

    def seen_by_server() -> RecentEvents:
        rows = {"customer_id": [customer], "terminal_id": ["x"]}
        return recent_of(server.get_online_features(service, rows).to_dict(), CUSTOMERS)[0]

    pushed = seen_by_server().append(10**9, int(AS_OF.timestamp() * 1e6) + 5, (1234, 0.5), N)
    server.push("customer_state_push", DataFrame(columns_of({customer: pushed}, CUSTOMERS, "customer_id")))
    assert seen_by_server().event_ids[-1] == 10**9

    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    assert seen_by_server().event_ids[-1] == 10**9

    materialize(feature_set, lake, tmp_path, AS_OF - timedelta(days=3), generation="served")
    assert 10**9 not in seen_by_server().event_ids  # a server that was open all the time sees it


def test_other_code_fills_the_store_anew(
    tmp_path: Path, lake: Path, feature_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    monkeypatch.setattr(core, "code_of", lambda *_: "edited")

    second = materialize(feature_set, lake, tmp_path, AS_OF, generation="served")

    assert filled_with(repository(tmp_path, "fraud", "served")) == second.id != first.id


def test_a_later_state_does_not_survive_an_earlier_instant(tmp_path: Path, lake: Path, feature_set: Manifest) -> None:
    """Who appears only later is not in the store of an earlier instant."""
    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    first_day = datetime(2018, 4, 2, tzinfo=UTC)

    result = materialize(feature_set, lake, tmp_path, first_day, generation="served")

    with sqlite3.connect(repository(tmp_path, "fraud", "served") / DATABASE) as live:
        entities = live.execute("SELECT count(DISTINCT entity_key) FROM fraud_customer_state").fetchone()[0]
    assert entities == result.facts["states"]["customer_state"] < 40


def content(home: Path) -> list[Any]:
    with sqlite3.connect(repository(home, "fraud", "served") / DATABASE) as live:
        columns = "entity_key, feature_name, value, event_ts"
        return [
            live.execute(f"SELECT {columns} FROM fraud_{view.name} ORDER BY entity_key, feature_name").fetchall()
            for view in f.VIEWS
        ]


def test_a_store_filled_from_one_aside_is_what_each_fill_alone_would_make(
    tmp_path: Path, lake: Path, feature_set: Manifest
) -> None:
    """Forth, where states change and new ones come; back, where some are gone; and after a fill that failed."""
    hours = (-30, -24, -18, -30 * 24, 0)
    with closing(Aside(load("fraud"))) as aside:
        for number, hour in enumerate(hours):
            as_of = AS_OF + timedelta(hours=hour)
            if number == 2:
                with pytest.raises(duckdb.IOException):
                    aside.write(tmp_path / "nothing there")

            materialize(feature_set, lake, tmp_path / "kept", as_of, aside=aside, generation="served")

            materialize(feature_set, lake, tmp_path / "alone", as_of, generation="served")
            assert content(tmp_path / "kept") == content(tmp_path / "alone")
            assert filled_with(repository(tmp_path / "kept", "fraud", "served")) == filled_with(
                repository(tmp_path / "alone", "fraud", "served")
            )


def test_an_aside_is_written_only_what_changed(
    tmp_path: Path, lake: Path, feature_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore

    written: list[int] = []
    write = FeatureStore.write_to_online_store
    monkeypatch.setattr(
        FeatureStore, "write_to_online_store", lambda self, view, df: (written.append(len(df)), write(self, view, df))
    )
    first, second = (sources_of(feature_set, lake, AS_OF + timedelta(minutes=m), 1).fetch() for m in (0, 50))

    with closing(Aside(load("fraud"))) as aside:
        for sources in (first, second, second):
            aside.write(sources)

    everything = pq.read_table(first / "customer_state.parquet").num_rows
    assert written[0] == everything
    assert len(written) == 3  # terminals are as of the same refresh
    assert 0 < written[2] < everything / 2


def test_a_killed_fill_leaves_the_old_store_and_is_made_good(tmp_path: Path, lake: Path, feature_set: Manifest) -> None:
    first = materialize(feature_set, lake, tmp_path, AS_OF - timedelta(days=20), generation="served")
    code = (
        "import os, signal, sys\n"
        "from datetime import datetime\n"
        "from pathlib import Path\n"
        "from components.materialize import core, store\n"
        "from millrace.lake.manifest import Manifest\n"
        "store.record_fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "lake, home = map(Path, sys.argv[2:4])\n"
        "at = datetime.fromisoformat(sys.argv[4])\n"
        "core.materialize(Manifest.read(sys.argv[1]), lake, home, at, generation='served')\n"
    )
    arguments = [str(feature_set.fetch()), str(lake), str(tmp_path), AS_OF.isoformat()]
    run = subprocess.run([sys.executable, "-O", "-c", code, *arguments], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert filled_with(repository(tmp_path, "fraud", "served")) == first.id

    second = materialize(feature_set, lake, tmp_path, AS_OF, generation="served")

    assert filled_with(repository(tmp_path, "fraud", "served")) == second.id
    assert len(recent_of(lookup(tmp_path, ["nobody"], ["x"]), CUSTOMERS)) == 1


def test_doing_nothing_imports_no_feast(tmp_path: Path, lake: Path, feature_set: Manifest) -> None:
    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    code = (
        "import sys\n"
        "from datetime import datetime\n"
        "from pathlib import Path\n"
        "from components.materialize.core import materialize\n"
        "from millrace.lake.manifest import Manifest\n"
        "lake, home = map(Path, sys.argv[2:4])\n"
        "at = datetime.fromisoformat(sys.argv[4])\n"
        "materialize(Manifest.read(sys.argv[1]), lake, home, at, generation='served')\n"
        "print('feast' in sys.modules)\n"
    )

    arguments = [str(feature_set.fetch()), str(lake), str(tmp_path), AS_OF.isoformat()]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["False"]


def test_a_lost_registry_is_made_again(tmp_path: Path, lake: Path, feature_set: Manifest) -> None:
    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")
    (repository(tmp_path, "fraud", "served") / "registry.db").unlink()

    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")

    assert recent_of(lookup(tmp_path, ["nobody"], ["x"]), CUSTOMERS)


@pytest.mark.parametrize("as_of", [datetime(2018, 3, 31, tzinfo=UTC), datetime(2018, 5, 17, tzinfo=UTC)])
def test_an_instant_outside_the_data_is_refused(
    tmp_path: Path, lake: Path, feature_set: Manifest, as_of: datetime
) -> None:
    with pytest.raises(InvalidInput, match="2018-04-01 … 2018-05-15"):
        materialize(feature_set, lake, tmp_path, as_of, generation="served")


def test_an_instant_without_a_time_zone_is_refused(tmp_path: Path, lake: Path, feature_set: Manifest) -> None:
    with pytest.raises(InvalidInput, match="time zone"):
        materialize(feature_set, lake, tmp_path, AS_OF.replace(tzinfo=None), generation="served")
