"""The online store that serves, where that is not the home's own: what feature_store.yaml names, Redis on a cluster.

It is live while it is filled: Feast keeps the newer of two states by their time, and nothing pushed since is undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.feast_store import answering, opened
from components.materialize.store import VIEWS, register

_SAMPLE: Final = 100


def fill(configuration: Path, home: Path, sources: Path | None) -> None:
    """Register the definitions over a home's batch sources, then write the states of `sources`; None: register only.

    Raises Unavailable when the store or its registry does not answer.
    """
    with answering(configuration):
        store = opened(configuration)
        register(store, home)
        if sources is not None:
            for view in VIEWS:
                store.write_to_online_store(view, pq.read_table(sources / f"{view}.parquet").to_pandas())


def holds(configuration: Path, sources: Path) -> bool:
    """Whether it knows the first customers of `sources`: one that was emptied, or never filled, does not."""
    keys = pq.ParquetFile(sources / "customer_state.parquet").iter_batches(_SAMPLE, columns=["customer_id"])
    first = next(keys, None)
    if first is None:
        return True
    rows = [{"customer_id": name} for name in first["customer_id"].to_pylist()]
    from feast.errors import FeatureViewNotFoundException

    with answering(configuration):
        store = opened(configuration)
        try:
            answer = store.get_online_features(["customer_state:event_us"], rows).to_dict()
        except FeatureViewNotFoundException:
            return False
    return all(value is not None for value in answer["event_us"])


def write(configuration: Path, view: str, rows: pa.Table) -> None:
    """States of a view into a store whose definitions are registered. Raises Unavailable as `fill` does."""
    with answering(configuration):
        opened(configuration).write_to_online_store(view, rows.to_pandas())
