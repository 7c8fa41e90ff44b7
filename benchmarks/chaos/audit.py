"""What the log, the store and the audit chain say afterwards, beside what clients were told."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from benchmarks.chaos.load import Asked
from millrace.appended.records import SLACK
from millrace.errors import ArtifactCorrupt
from millrace.events.log import PREDICTIONS, engine, reading
from millrace.events.prediction import SHADOW
from millrace.events.stream import Lag, open_stream
from millrace.inputs import RecentEvents
from millrace.installed import Workload
from millrace.pseudonyms import pseudonym
from millrace.registry import audit
from millrace.registry.generations import generations_in_use
from millrace.requests import RequestFormat
from millrace.settings import Settings
from serving.transformer.store import open_store

LOOK_S: Final = 0.5
STALLED_S: Final = 30.0
"""A group that takes nothing for so long is not there: a server that comes back after a kill takes less."""
IDS_PER_QUERY: Final = 500
SCORE_TOLERANCE: Final = 1e-6


@dataclass
class Findings:
    """What is wrong, by what it is of; nothing where everything is right."""

    missing: list[tuple[Asked, int]] = field(default_factory=list)
    """Acknowledged rows of requests that the log does not have."""
    twice: list[tuple[Asked, int]] = field(default_factory=list)
    other_entity: list[tuple[Asked, int]] = field(default_factory=list)
    """Rows that the log has under another key."""
    other_score: list[tuple[Asked, int]] = field(default_factory=list)
    """Rows that the log has with another score than the answer's."""
    states_wrong: dict[str, str] = field(default_factory=dict)
    """Entity → what is wrong with its recent events."""
    states: int = 0
    """Entities whose recent events were compared."""
    chain: str = ""
    """What is wrong with the audit chain."""
    behind: dict[str, int] = field(default_factory=dict)
    """Group of the event stream → events that it had not taken when the deadline was over."""
    refused: int = 0
    """Events that some group has set aside."""
    caught_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """A row of an acknowledged answer."""

    asked: Asked
    place: int
    event_id: int
    event_us: int
    keys: dict[str, str]
    """Entity → id, as states and log have it."""


def judge(here: Settings, workload: Workload, asked: Sequence[Asked], deadline_s: float) -> Findings:
    """Wait until every group of the stream has taken all of it, then compare."""
    found = Findings()
    catch_up(here, found, deadline_s)
    judge_log(here, workload, asked, found)
    if workload.recent is not None:
        judge_states(here, workload, asked, found)
    try:
        audit.read(here.home / "audit.jsonl")
    except ArtifactCorrupt as error:
        found.chain = str(error)
    return found


def catch_up(here: Settings, found: Findings, deadline_s: float) -> None:
    """Wait until no group of the event stream is behind; for one that takes nothing any more, not to the deadline."""
    began = moved = time.monotonic()
    stream = open_stream(here)
    try:
        while True:
            lags: dict[str, Lag] = {f"{group.name}/{group.topic}": stream.lag(group) for group in stream.groups()}
            behind = {name: lag.events for name, lag in lags.items() if lag.events}
            now = time.monotonic()
            if behind != found.behind:
                moved = now
            found.behind, found.caught_up_s = behind, now - began
            found.refused = sum(lag.refused for lag in lags.values())
            if not behind or now - moved > STALLED_S or now - began > deadline_s:
                return
            time.sleep(LOOK_S)
    finally:
        stream.close()


def judge_log(here: Settings, workload: Workload, asked: Sequence[Asked], found: Findings) -> None:
    """Every acknowledged row is in the prediction log once, under its entity and with its score."""
    acknowledged = {one.request_id: one for one in asked if one.answered_at is not None}
    logged: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in _logged(here, list(acknowledged)):
        logged[row.request_id, row.event_id].append(row)
    for told in _told(here, workload, acknowledged.values()):
        rows = logged[told.asked.request_id, told.event_id]
        where = told.asked, told.place
        if not rows:
            found.missing.append(where)
            continue
        if len(rows) > 1:
            found.twice.append(where)
        keys = json.loads(rows[0].keys)
        wanted = {workload.entity(name).key: id_ for name, id_ in told.keys.items()}
        if any(wanted.get(column) != id_ for column, id_ in keys.items()):
            found.other_entity.append(where)
        if abs(rows[0].score - told.asked.scores[told.place]) > SCORE_TOLERANCE:
            found.other_score.append(where)


def _logged(here: Settings, request_ids: Sequence[str]) -> Iterable[Any]:
    """Rows of these requests, a shadow's aside."""
    columns = [PREDICTIONS.c[name] for name in ("request_id", "event_id", "keys", "score")]
    with reading(engine(here)) as connection:
        for start in range(0, len(request_ids), IDS_PER_QUERY):
            some = PREDICTIONS.c.request_id.in_(request_ids[start : start + IDS_PER_QUERY])
            yield from connection.execute(sa.select(*columns).where(some, PREDICTIONS.c.arm != SHADOW))


def judge_states(here: Settings, workload: Workload, asked: Sequence[Asked], found: Findings) -> None:
    """Every entity's recent events are what was acknowledged, and of the rest what got so far."""
    assert workload.recent is not None
    entity = workload.recent.entity
    sent: dict[str, dict[int, int]] = defaultdict(dict)
    acknowledged: dict[str, dict[int, int]] = defaultdict(dict)
    for told in _told(here, workload, asked):
        sent[told.keys[entity]][told.event_id] = told.event_us
        if told.asked.answered_at is not None:
            acknowledged[told.keys[entity]][told.event_id] = told.event_us

    store = open_store(here.home, workload, next(iter(generations_in_use(here))), here.history_length)
    keys = sorted(sent)
    for key, state in zip(keys, store.read_recent(keys), strict=True):
        wrong = wrong_with(state, sent[key], acknowledged[key], here.history_length + SLACK)
        if wrong:
            found.states_wrong[key] = wrong
    found.states = len(keys)


def wrong_with(state: RecentEvents, sent: dict[int, int], acknowledged: dict[int, int], kept: int) -> str:
    """What is wrong with an entity's recent events; empty: they are the newest ones, in order, each once.

    Both mappings are of event id → time in microseconds; a state keeps the newest `kept` events.
    """
    ids, times = state.event_ids.tolist(), state.event_us.tolist()
    doubled = [id_ for id_, times_there in Counter(ids).items() if times_there > 1]
    if doubled:
        return f"events twice: {doubled[:3]}"
    if not np.array_equal(np.lexsort((state.event_ids, state.event_us)), np.arange(len(ids))):
        return "events are out of order"

    there = dict(zip(ids, times, strict=True))
    strange = [id_ for id_, time_us in there.items() if sent.get(id_) != time_us]
    if strange:
        return f"events that nobody sent, or at another time: {strange[:3]}"
    oldest = (times[0], ids[0]) if len(ids) >= kept else (-1, -1)
    absent = [id_ for id_, time_us in acknowledged.items() if (time_us, id_) > oldest and id_ not in there]
    return f"events absent: {absent[:3]}, {len(absent)} in all" if absent else ""


def _told(here: Settings, workload: Workload, asked: Iterable[Asked]) -> Iterable[Told]:
    """Every row of these requests, with ids as the servers know them."""
    format_, key = RequestFormat.of(workload), here.pseudonym_secret()
    for one in asked:
        requests = format_.from_rows(one.rows, 0)
        keys = format_.keys(requests, lambda id_: pseudonym(id_, key))
        for place, (id_, us) in enumerate(zip(requests.event_id.tolist(), requests.event_us.tolist(), strict=True)):
            yield Told(one, place, id_, us, {name: ids[place] for name, ids in keys.items()})
