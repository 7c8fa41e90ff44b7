"""Generations of state in a real Redis: filled aside, read apart, given what was scored, dropped without the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from stores import redis_server

from components.materialize import serving_store
from fraud.features import VIEWS
from millrace.appended.records import Entry
from millrace.errors import Unavailable
from millrace.installed import load
from millrace.lake.feast_home import Fill
from millrace.lookup import columns_of, empty
from serving.transformer.store import open_store

CUSTOMERS, TERMINALS = VIEWS
FRAUD = load("fraud")
N = 8
CONFIGURATION = """project: fraud
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: duckdb}}
online_store: {{type: redis, connection_string: "{address}"}}
entity_key_serialization_version: 3
"""


def fill(configuration: Path, folder: Path, generation: str, count: int, content: Fill) -> Path:
    """A generation with one terminal of that count and one customer without events."""
    sources = folder / generation / "sources"
    sources.mkdir(parents=True)
    states = columns_of({"c": empty(CUSTOMERS).append(1, 1, (100, 0.5), N)}, CUSTOMERS, "customer_id")
    pd.DataFrame(states).to_parquet(sources / f"{CUSTOMERS.name}.parquet")
    row = {"terminal_id": ["t"], "event_timestamp": pd.to_datetime(["2018-05-10"], utc=True)}
    pd.DataFrame(row | {name: [count] for name in TERMINALS.fields}).to_parquet(sources / f"{TERMINALS.name}.parquet")
    serving_store.fill(configuration, FRAUD, folder / generation, sources, content)
    return sources


def test_generations_share_what_was_scored_and_nothing_else(tmp_path: Path) -> None:
    configuration = tmp_path / "pod" / "feast" / "fraud" / "feature_store.yaml"
    configuration.parent.mkdir(parents=True)
    with redis_server(tmp_path) as redis:
        configuration.write_text(CONFIGURATION.format(folder=tmp_path, address=redis.address))
        sources = fill(configuration, tmp_path, "old", 3, Fill("a", as_of_us=0))
        fill(configuration, tmp_path, "new", 7, Fill("b", as_of_us=4, filled_us=1 << 60))
        old, new = (open_store(tmp_path / "pod", FRAUD, name, N) for name in ("old", "new"))
        asked = {"customer": ["x"], "terminal": ["t"]}

        old.append([Entry(2, "x", 2, (100, 0.5)), Entry(5, "x", 5, (100, 0.5))])

        found = [store.read(asked) for store in (old, new)]
        assert [one.recent[CUSTOMERS.name][0].event_ids.tolist() for one in found] == [[2, 5], [5]]
        assert [one.refreshed[TERMINALS.name][0, 0] for one in found] == [3, 7]
        assert [(store.unpushed(), store.push(), store.unpushed()) for store in (old, new)] == [(1, 1, 0)] * 2
        assert serving_store.holds(configuration, FRAUD, "old", sources)

        serving_store.drop(configuration, FRAUD, "old")

        assert not serving_store.holds(configuration, FRAUD, "old", sources)
        with pytest.raises(Unavailable, match="never filled, or was dropped"):
            old.read(asked)
        assert new.read(asked).refreshed[TERMINALS.name][0, 0] == 7
