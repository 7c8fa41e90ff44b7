"""The online store that serves, where that is not the home's own: what feature_store.yaml names, Redis on a cluster.

It is live while it is filled: Feast keeps the newer of two states by their time, and nothing pushed since is undone.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from components.feast_store import answering, opened
from components.materialize.store import VIEWS, register


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
