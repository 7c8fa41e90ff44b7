"""The online store that serves, where that is not the home's own: what feature_store.yaml names, Redis on a cluster.

A generation is a project of Feast's there, with keys of its own. One that serves is live while it is filled: Feast
keeps the newer of two states by their time, and nothing pushed since is undone.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from components.feast_store import answering, opened
from components.materialize.store import register
from millrace.appended.redis import forget_fill, read_fill, record_fill
from millrace.fields import View
from millrace.installed import Workload
from millrace.lake.feast_home import Fill

if TYPE_CHECKING:
    from feast import FeatureStore

_SAMPLE: Final = 100


def fill(configuration: Path, workload: Workload, repo: Path, sources: Path, content: Fill) -> None:
    """Register the definitions over a generation's batch sources, then write the states of `sources`.

    Raises Unavailable when the store or its registry does not answer.
    """
    with answering(configuration):
        store = opened(configuration, workload.name, repo.name)
        register(store, workload, repo)
        for view in workload.features.VIEWS:
            store.write_to_online_store(view.name, pq.read_table(sources / f"{view.name}.parquet").to_pandas())
        record_fill(_client(store), store.project, content)


def holds(configuration: Path, workload: Workload, generation: str, sources: Path) -> bool:
    """Whether it knows the first entities of `sources`: one that was emptied, or never filled, does not."""
    from feast.errors import FeatureViewNotFoundException

    with answering(configuration):
        store = opened(configuration, workload.name, generation)
        if read_fill(_client(store), store.project) is None:
            return False
        try:
            return all(_holds(store, workload, view, sources) for view in workload.features.VIEWS)
        except FeatureViewNotFoundException:
            return False


def write(configuration: Path, workload: Workload, generation: str, view: str, rows: pa.Table) -> None:
    """States of a view into a generation whose definitions are registered. Raises Unavailable as `fill` does."""
    with answering(configuration):
        opened(configuration, workload.name, generation).write_to_online_store(view, rows.to_pandas())


def drop(configuration: Path, workload: Workload, generation: str) -> None:
    """Remove a generation's rows and definitions; one that is not there is left alone."""
    from feast.errors import ProjectObjectNotFoundException

    with answering(configuration):
        store = opened(configuration, workload.name, generation)
        forget_fill(_client(store), store.project)  # first: what is dropped half is not filled
        for view in workload.features.VIEWS:
            key = workload.entity(view.entity).key
            store._get_provider().online_store.delete_entity_values(store.config, [key])
        with suppress(ProjectObjectNotFoundException):
            store.registry.delete_project(store.project, commit=True)


def _client(store: FeatureStore) -> Any:
    """Redis behind a store, for what Feast does not keep there."""
    return store._get_provider().online_store._get_client(store.config.online_store)


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
