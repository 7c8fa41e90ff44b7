"""Judge a snapshot by its distributions: against its predecessor, or, for the first one, against its own first weeks.

Manifests in, a validation artifact out: `verdict.json`, `report.json`, `report.html`. The rules are in `rules.py`,
their limits in `validate.yaml`, the aggregates in `profile.py`, the page in `page.py`. Blocking is `components/gate`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.validate import learnable, rules
from components.validate.comparison import Comparison, new_share
from components.validate.config import ValidateConfig
from components.validate.profile import Profile, connect, entity_activity, first_seen, measured, profile
from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.instants import date_of, day_number
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest, content_id, list_manifests
from millrace.lake.provenance import code_of
from millrace.lake.states import key_sql
from millrace.lake.step import Step
from millrace.observe.progress import log

GATE = "data"
TABLE = "events"
COMPLETE_SHARE = 0.99
"""A first or last day that covers less than this share of a usual day's rows by the clock is an unfinished delivery."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Which days are judged and which they are compared with, as day numbers since 1970."""

    judged: tuple[int, ...]
    current: tuple[int, ...]
    reference: tuple[int, ...]


def validate(
    snapshot: Manifest,
    previous: Manifest | None,
    lake: Path,
    config: ValidateConfig | None = None,
    *,
    accept: Mapping[str, str] | None = None,
    for_training: bool = True,
    as_of: str = "",
    train_days: int = 0,
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """Judge `snapshot` against `previous`; returns the validation, whose verdict may be a failure.

    `accept` has names of rules whose failure is accepted, and why. Unless `for_training`, nothing is asked about
    learning from the snapshot. `as_of` and `train_days` are those of the run, whose windows the snapshot must fill;
    0 days: what fits.

    Raises InvalidInput for a snapshot without rows: there is nothing to judge.
    """
    workload = load(snapshot.workload)
    config = config or ValidateConfig.load(workload)
    if previous is not None and previous.id == snapshot.id:
        previous = None
    code = code_of(Path(__file__).parent, *workload.files("schema", "judging"))
    inputs = {
        "snapshot": snapshot.id,
        "previous": previous and previous.id,
        "config": config.model_dump(),
        "accept": dict(accept or {}),
        "for_training": for_training,
        "as_of": as_of,
        "train_days": train_days,
        "code": code,
    }
    parents = {"snapshot": snapshot.id}
    step = Step(kind="validation", id=content_id(inputs), workload=workload.name, lake=lake, parents=parents)
    done = step.found()
    if done is not None:
        return done

    comparison, windows = compare(snapshot, previous, config, threads, memory_limit_gb)
    judged = list(rules.judge(comparison, config))
    if for_training:
        offered = learnable.examine(connect(threads, memory_limit_gb), snapshot, config, as_of, train_days)
        judged += learnable.judge(offered, config)
    verdict = Verdict(GATE, tuple(judged)).accepting(accept or {})
    facts = {"passed": verdict.passed, "previous": previous and previous.id} | windows
    log("validate", snapshot=snapshot.id, passed=verdict.passed, failed=[rule.name for rule in verdict.failures])
    return _write(step, snapshot, verdict, comparison, config, facts)


def find_previous(snapshot: Manifest, lake: Path) -> Manifest | None:
    """The newest older snapshot of the same workload and source that passed validation; absent for a first one."""
    passed = {m.parents["snapshot"] for m in list_manifests(lake / "validations", "validation") if m.facts["passed"]}
    older = [
        candidate
        for candidate in list_manifests(lake / "snapshots", "snapshot")
        if candidate.id in passed - {snapshot.id}
        and candidate.workload == snapshot.workload
        and candidate.created_at <= snapshot.created_at
        and candidate.facts["source"]["uri"] == snapshot.facts["source"]["uri"]
    ]
    return older[-1] if older else None


def compare(
    snapshot: Manifest, previous: Manifest | None, config: ValidateConfig, threads: int, memory_limit_gb: float
) -> tuple[Comparison, dict[str, Any]]:
    """Aggregate the snapshot and its reference; the second result names the windows."""
    days = _days(snapshot)
    if not days:
        raise InvalidInput(f"snapshot {snapshot.id} has no rows. Ingest a source with events.")
    windows = choose_windows(days, _days(previous) if previous else None, config)
    reference = previous or snapshot
    workload = load(snapshot.workload)
    what, db = measured(workload), connect(threads, memory_limit_gb)
    whole = profile(db, snapshot.table(TABLE), what)
    beside = whole.take(_among(whole, windows.reference))
    if previous is not None:
        beside = profile(db, _files(previous, windows.reference), what)
    finished = ~unfinished_edges(whole, beside)
    judged, current = (_prefer(_among(whole, chosen), finished) for chosen in (windows.judged, windows.current))
    seen = [day for day in _days(reference) if day < windows.current[0]] or list(windows.reference)
    entities = (entity for entity in workload.schema.ENTITIES if not entity.constant)
    keys = {entity.name: key_sql(workload, entity.name) for entity in entities}
    files = (_files(reference, seen), _files(reference, windows.reference), _files(snapshot, whole.days[current]))
    comparison = Comparison(
        snapshot=whole,
        judged=judged,
        current=current,
        reference=beside,
        measured=what,
        activity={name: entity_activity(db, key, *files) for name, key in keys.items()},
        quarantined=sum(snapshot.facts.get("quarantined", {}).values()),
        previous_last_day=max(_days(previous)) if previous and _days(previous) else None,
        rows_lost_share=_rows_lost(snapshot, previous) if previous else None,
        columns_lost=tuple(sorted(set(beside.nulls) - set(whole.nulls))),
        usual_new=_usual_new(db, keys, reference, seen, config),
        first_seen={name: first_seen(db, key, snapshot.table(TABLE), whole.days) for name, key in keys.items()},
    )
    named = {"current": whole.days[current], "reference": beside.days, "unfinished": whole.days[~finished]}
    return comparison, {name: [str(date_of(day)) for day in chosen] for name, chosen in named.items()}


def _usual_new(
    db: duckdb.DuckDBPyConnection, keys: dict[str, str], reference: Manifest, days: list[int], config: ValidateConfig
) -> dict[str, float]:
    """Entity → share of the rows of the newer half of `days` whose id is in none of the older half."""
    if config.max_new_rows_over_usual is None or len(days) < 2:
        return {}
    older, newer = _files(reference, days[: len(days) // 2]), _files(reference, days[len(days) // 2 :])
    shares = {}
    for name, key in keys.items():
        activity = entity_activity(db, key, older, older, newer)
        shares[name] = new_share(activity)
    return shares


def choose_windows(days: list[int], previous: list[int] | None, config: ValidateConfig) -> Windows:
    """New days against the predecessor's last weeks; nothing new, or no predecessor: the last week.

    Without a predecessor the first weeks are the reference, and every day is judged by itself.
    """
    if not previous:
        current = days[-min(config.current_days, max(len(days) // 2, 1)) :]
        earlier = [day for day in days if day < current[0]] or days
        return Windows(tuple(days), tuple(current), tuple(earlier[: config.reference_days]))
    current = [day for day in days if day > previous[-1]] or days[-config.current_days :]
    earlier = [day for day in previous if day < current[0]] or previous
    return Windows(tuple(current), tuple(current), tuple(earlier[-config.reference_days :]))


def unfinished_edges(whole: Profile, reference: Profile) -> NDArray[np.bool_]:
    """[D] the first or last day, where its rows stop (or begin) in the middle of a usual day.

    An export taken at noon is not a fault: its last day is not judged. Training does not use it either.
    """
    unfinished = np.zeros(len(whole), bool)
    usual = reference.minutes.sum(axis=0).cumsum() / max(reference.rows.sum(), 1)
    # Chance leaves gaps at the edges of a quiet day: what is missing must be worth more than a few rows.
    slack = max(1 - COMPLETE_SHARE, 7 / max(reference.rows.mean(), 1))
    begins, ends = np.flatnonzero(whole.minutes[0])[0], np.flatnonzero(whole.minutes[-1])[-1]
    unfinished[0] = begins > 0 and usual[begins - 1] > slack
    unfinished[-1] |= usual[ends] < 1 - slack
    return unfinished


def _prefer(chosen: NDArray[np.bool_], finished: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The finished days among the chosen; all of them when none is finished."""
    return chosen & finished if (chosen & finished).any() else chosen


def _rows_lost(snapshot: Manifest, previous: Manifest) -> float | None:
    """Rows of `previous` that are gone from the days both hold, as a share; unchanged partitions are not read."""
    before, now = previous.facts["tables"][TABLE], snapshot.facts["tables"][TABLE]
    shared = before.keys() & now.keys()
    if not shared:
        return None
    changed = [day for day in shared if before[day] != now[day]]
    old, new = previous.paths([before[day] for day in changed]), snapshot.paths([now[day] for day in changed])
    rows = [[pq.read_metadata(path).num_rows for path in paths] for paths in (old, new)]
    lost: int = sum(max(had - has, 0) for had, has in zip(*rows, strict=True))
    return lost / max(int(previous.facts["rows"]), 1)


def _write(
    step: Step,
    snapshot: Manifest,
    verdict: Verdict,
    comparison: Comparison,
    config: ValidateConfig,
    facts: dict[str, Any],
) -> Manifest:
    from components.validate import page  # matplotlib: not for those who only want the rules

    with step.writing() as draft:
        verdict.write(draft.folder / "verdict.json")
        document = {"snapshot": snapshot.id, "config": config.model_dump(), **facts, **verdict.to_dict()}
        (draft.folder / "report.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        page.write(draft.folder / "report.html", snapshot, verdict, comparison, config, facts)
        draft.facts |= facts
    return step.made()


def _days(manifest: Manifest) -> list[int]:
    return sorted(day_number(date.fromisoformat(day)) for day in manifest.facts["tables"][TABLE])


def _files(manifest: Manifest | None, days: Any) -> list[Path]:
    if manifest is None:
        return []
    wanted = {str(date_of(day)) for day in days}
    return manifest.paths([path for day, path in sorted(manifest.facts["tables"][TABLE].items()) if day in wanted])


def _among(whole: Profile, days: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(whole.days, days)
