"""What a lookup of a recent state, an append and a push cost in CPU, on the laptop's store or a Redis.

`python -O -m benchmarks.lookups` makes a home of 400 entities in a temporary folder; `--redis HOST:PORT[,OPTIONS]`
reads the same states in that Redis, whose database it empties. One JSON object on stdout, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.materialize import serving_store
from components.materialize.store import fill
from millrace.appended.records import SLACK, Entry
from millrace.inputs import RecentEvents, recent
from millrace.installed import Workload, load
from millrace.instants import instant_of
from millrace.lake.feast_home import CONFIGURATION, Fill, repository, workload_folder
from millrace.lookup import columns_of, empty
from serving.transformer.store import OnlineStore, open_store

N: Final = 64
GENERATION: Final = "benchmark"
ENTITIES: Final = 400
ROUNDS: Final = 5
CALLS: Final = 2_000
START_US: Final = 1_526_000_000_000_000
REPOSITORY: Final = Path(__file__).parents[1] / "manifests" / "base" / "feature_store" / "feature_store.yaml"


def measure(store: OnlineStore, names: list[str]) -> dict[str, float]:
    """Microseconds of this process's CPU, the best of some rounds."""
    numbers = count(10**6)

    def append(entries: int) -> Callable[[int], Any]:
        return lambda _: store.append([_entry(next(numbers), names) for _ in range(entries)])

    def look(call: int) -> Any:
        return store.read_recent([names[call % len(names)]])

    found = {"lookup": best(look), "append": best(append(1)), "append_of_ten": best(append(10)) / 10}
    for _ in range(SLACK + N):
        store.append([_entry(next(numbers), names) for _ in names])
    found["lookup_unpushed"] = best(look)
    began, pushed = time.process_time(), 0
    while done := store.push():
        pushed += done
    found["push"] = (time.process_time() - began) / pushed * 1e6
    found["lookup_pushed"] = best(look)
    return {name: round(value, 1) for name, value in found.items()}


def best(call: Callable[[int], Any]) -> float:
    costs = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(CALLS):
            call(number)
        costs.append((time.process_time() - began) / CALLS * 1e6)
    return min(costs)


def sources(workload: Workload, names: list[str], folder: Path) -> Path:
    """The files of a fill: whole states of these entities, and one row of each refreshed view."""
    for view in workload.features.VIEWS:
        key = workload.entity(view.entity).key
        rows: Mapping[str, Any]
        if view.recent:
            rows = columns_of({name: _state(workload) for name in names}, view, key)
        else:
            rows = {key: ["one"], "event_timestamp": [instant_of(START_US)], **{name: [1] for name in view.fields}}
        pq.write_table(pa.table(dict(rows)), folder / f"{view.name}.parquet")
    return folder


def _state(workload: Workload) -> RecentEvents:
    assert workload.recent is not None
    numbers = np.arange(N)
    values = [numbers.astype(column.dtype) for column in empty(workload.recent).values]
    return recent(numbers, START_US + numbers * 1_000_000, *values)


def _entry(number: int, names: list[str]) -> Entry:
    return Entry(number, names[number % len(names)], START_US + 10**9 + number, (100, 0.5))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--redis", help="as Feast's connection_string")
    options = arguments.parse_args()
    workload, names = load("fraud"), [f"{number:016x}" for number in range(ENTITIES)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        filled = sources(workload, names, home)
        content = Fill("benchmark", as_of_us=START_US + N * 1_000_000, filled_us=time.time_ns() // 1000)
        if options.redis:
            os.environ |= {"FEAST_REDIS": options.redis, "MILLRACE_WORKLOAD": workload.name}
            os.environ["FEAST_REGISTRY_URL"] = f"sqlite:///{home / 'registry.db'}"
            configuration = workload_folder(home, workload.name) / CONFIGURATION
            configuration.parent.mkdir(parents=True)
            configuration.write_text(REPOSITORY.read_text())
            serving_store.fill(configuration, workload, home / GENERATION, filled, content)
        else:
            fill(repository(home, workload.name, GENERATION), workload, filled, content)
        print(json.dumps(measure(open_store(home, workload, GENERATION, N), names)))


if __name__ == "__main__":
    main()
