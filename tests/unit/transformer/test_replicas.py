"""Several transformers over one real store: whichever answers, the states are those that one would have made."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.materialize.store import fill
from fraud.features import VIEWS
from millrace.installed import load
from millrace.instants import instant_of
from millrace.lake.feast_home import Fill, repository
from millrace.lookup import columns_of
from millrace.pseudonyms import pseudonym
from serving.transformer.store import OnlineStore, open_store

CUSTOMERS, TERMINALS = VIEWS
CLIENTS = [f"c{number}" for number in range(5)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store that was filled with one terminal and no customer."""
    home = tmp_path / "home"
    repository(home, "fraud", "served").mkdir(parents=True)
    recent = columns_of({}, CUSTOMERS, "customer_id")
    types = {"customer_id": pa.string(), "event_timestamp": pa.timestamp("us", "UTC")}
    types |= {name: pa.list_(value.value_type) for name, value in CUSTOMERS.fields.items()}
    pq.write_table(pa.table(recent, pa.schema(list(types.items()))), tmp_path / "customer_state.parquet")
    terminal = {name: [1] for name in TERMINALS.fields}
    row = {"terminal_id": ["t"], "event_timestamp": [instant_of(0)], **terminal}
    pq.write_table(pa.table(row), tmp_path / "terminal_state.parquet")
    fill(repository(home, "fraud", "served"), load("fraud"), tmp_path, Fill("empty"))
    return home


def opened(home: Path, length: int) -> OnlineStore:
    return open_store(home, load("fraud"), "served", length)


def day(lab, prefix: str) -> list[dict]:
    """Transactions a second apart, in order; one in five is asked about twice."""
    draw = random.Random(7)
    rows = []
    for number in range(80):
        when = instant_of(1_538_308_800_000_000 + number * 1_000_000).isoformat()
        row = lab.transaction(number, customer=prefix + draw.choice(CLIENTS), event_timestamp=when)
        rows += [row] * (2 if draw.random() < 0.2 else 1)
    return rows


def test_a_day_through_four_transformers_at_once_gives_the_states_that_one_gives(lab, options, home):
    settings = options(deadline_ms=60_000)

    async def replayed(replicas: int, prefix: str) -> list[int]:
        async with lab.predictor().running() as model, AsyncExitStack() as stack:
            paths = [
                await stack.enter_async_context(lab.serving(model.address, settings, opened(home, lab.N)))
                for _ in range(replicas)
            ]
            draw = random.Random(replicas)
            asked = [draw.choice(paths).predict(row) for row in day(lab, prefix)]
            if replicas == 1:
                return [(await one).status for one in asked]
            return [reply.status for reply in await asyncio.gather(*asked)]

    one, four = asyncio.run(replayed(1, "one ")), asyncio.run(replayed(4, "four "))

    assert set(one) == set(four) == {200}
    store = opened(home, lab.N)
    alone = store.read_recent([pseudonym(f"one {name}", b"key") for name in CLIENTS])
    shared = store.read_recent([pseudonym(f"four {name}", b"key") for name in CLIENTS])
    assert [state.event_ids.tolist() for state in shared] == [state.event_ids.tolist() for state in alone]
    assert [state.event_us.tolist() for state in shared] == [sorted(state.event_us.tolist()) for state in alone]
    assert sum(map(len, shared)) == 80
