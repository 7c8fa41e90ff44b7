"""The online store that serves, where that is not the home's own: what feature_store.yaml names, Redis on a cluster.

It is live while it is filled: Feast keeps the newer of two states by their time, and nothing pushed since is undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.feast_store import answering, opened
from components.materialize.store import register
from millrace.fields import View
from millrace.installed import Workload

if TYPE_CHECKING:
    from feast import FeatureStore

_SAMPLE: Final = 100


def fill(configuration: Path, workload: Workload, home: Path, sources: Path | None) -> None:
    """Register the definitions over a home's batch sources, then write the states of `sources`; None: register only.

    Raises Unavailable when the store or its registry does not answer.
    """
    with answering(configuration):
        store = opened(configuration, workload.name)
        register(store, workload, home)
        if sources is not None:
            for view in workload.features.VIEWS:
                store.write_to_online_store(view.name, pq.read_table(sources / f"{view.name}.parquet").to_pandas())


def holds(configuration: Path, workload: Workload, sources: Path) -> bool:
    """Whether it knows the first entities of `sources`: one that was emptied, or never filled, does not."""
    from feast.errors import FeatureViewNotFoundException

    with answering(configuration):
        store = opened(configuration, workload.name)
        try:
            return all(_holds(store, workload, view, sources) for view in workload.features.VIEWS)
        except FeatureViewNotFoundException:
            return False


def write(configuration: Path, workload: Workload, view: str, rows: pa.Table) -> None:
    """States of a view into a store whose definitions are registered. Raises Unavailable as `fill` does."""
    with answering(configuration):
        opened(configuration, workload.name).write_to_online_store(view, rows.to_pandas())


def _holds(store: FeatureStore, workload: Workload, view: View, sources: Path) -> bool:
    key = workload.entity(view.entity).key
    keys = pq.ParquetFile(sources / f"{view.name}.parquet").iter_batches(_SAMPLE, columns=[key])
    first = next(keys, None)
    if first is None:
        return True

    rows = [{key: name} for name in first[key].to_pylist()]
    field = next(iter(view.fields))
    answer = store.get_online_features([f"{view.name}:{field}"], rows).to_dict()
    return all(value is not None for value in answer[field])
