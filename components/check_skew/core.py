"""The skew gate: do training and serving give the model the same inputs? Blocks unless they demonstrably do.

In: a feature set, and the online store filled from it. Out: a skew check with a verdict and the inputs it compared
(docs/architecture.md). The events compared: `probes.py`; the ways to their inputs: `paths.py`; a store that serves and
is not the home's own: `served.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.check_skew import paths, probes, served
from components.check_skew.paths import Inputs
from components.check_skew.probes import Probes
from millrace.errors import InvalidInput
from millrace.features.events import engine
from millrace.installed import Workload, load
from millrace.instants import microseconds
from millrace.judge.gates import Rule, Verdict
from millrace.lake.feast_home import Fill, fill_of, repository
from millrace.lake.manifest import Manifest, content_id, list_manifests
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.registry.model_spec import GENERATION

FEATURE_REPO: Final = Path(__file__).parents[2] / "feature_repo"


@dataclass(frozen=True, kw_only=True, slots=True)
class SkewConfig:
    """How much is compared, and how closely."""

    sample: int = 300
    """Probes, at most."""
    seed: int = 0
    tolerance: float = 1e-5
    """Largest difference allowed, relative to the larger of the two values and 1."""
    compared_share: float = 0.5
    """Share of the probes that must be comparable: those of entities with events scored since `as_of` are not."""
    served_share: float = 0.01
    """Share of the states in a store that serves which may differ: it has seen what came late in another order."""


def check_skew(
    feature_set: Manifest,
    online_store: Manifest,
    lake: Path,
    home: Path,
    config: SkewConfig | None = None,
    *,
    accept: Mapping[str, str] | None = None,
    serving: Path | None = None,
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """Compare the paths on a sample; `facts.passed` and `verdict.json` say whether they agree.

    `accept` has names of rules whose failure is accepted, and why. `serving` is the feature_store.yaml of the store
    that serves, where that is not the home's own. A check that passed is not made again while the generation is as it
    was filled and the code of every path is the same, unless there is a serving one, which anything may have happened
    to. Raises InvalidInput when the online store comes from another feature set, NotFound when its generation is not in
    `home` or the serving store has none of it, Unavailable when that does not answer.
    """
    config = config or SkewConfig()
    workload = load(feature_set.workload)
    parents = {"online_store": online_store.id, "feature_set": feature_set.id}
    if online_store.parents.get("feature_set") != feature_set.id:
        raise InvalidInput(
            f"online store {online_store.id} was filled from feature set {online_store.parents.get('feature_set')}; "
            f"wanted {feature_set.id}. Materialise that one first."
        )

    generation = str(online_store.facts[GENERATION])
    repo = repository(home, workload.name, generation)
    current = fill_of(repo)
    pristine = _is_of(current, online_store)
    parts = workload.files("schema", "features", "batch", "online", "exchange")
    basis: dict[str, Any] = {"config": asdict(config), "accept": dict(accept or {})}
    basis |= {"code": code_of(Path(__file__).parent, FEATURE_REPO, *parts)}
    for done in list_manifests(lake / "skew_checks", "skew_check"):
        same = done.parents == parents and all(done.facts.get(key) == value for key, value in basis.items())
        there = pristine and done.facts.get(GENERATION) == generation
        if there and same and done.facts["passed"] and serving is None:
            return done

    as_of = datetime.fromisoformat(online_store.facts["as_of"])
    sample, inputs, stored = _measure(workload, feature_set, as_of, lake, repo, config, threads, memory_limit_gb)
    judged = list(_rules(workload, sample, inputs, stored, pristine, as_of, config))
    if serving is not None:
        judged += served.rules(serving, feature_set, online_store, sample.keys, config.served_share)
    verdict = Verdict("skew", tuple(judged)).accepting(accept or {})
    return _write(lake, workload, parents, basis, generation, verdict, sample, inputs)


def _is_of(held: Fill | None, online_store: Manifest) -> bool:
    """Whether a generation holds the states of an artifact and none that were renewed since."""
    return held is not None and held.id == online_store.id and held.renewed_to is None


def _measure(
    workload: Workload,
    feature_set: Manifest,
    as_of: datetime,
    lake: Path,
    repo: Path,
    config: SkewConfig,
    threads: int,
    memory_limit_gb: float,
) -> tuple[Probes, dict[str, Inputs], NDArray[np.float32]]:
    """The probes, their inputs by path, and the features that training has of the real ones (NaN for the others)."""
    history_length = int(feature_set.facts["history_length"])
    snapshot = Manifest.read(lake / "snapshots" / feature_set.parents["snapshot"], "snapshot")

    with engine(threads, memory_limit_gb) as connection:
        sample = probes.draw(connection, workload, snapshot, as_of, config.sample, config.seed)
        batch = paths.batch(connection, workload, snapshot, feature_set, sample, as_of)

    store = paths.open_store(repo)
    inputs = {
        "offline": paths.offline(store, workload, sample, history_length),
        "online": paths.online_store(store, workload, sample, history_length),
        "batch": batch,
    }
    return sample, inputs, paths.stored(workload, feature_set, sample, as_of)


def _rules(
    workload: Workload,
    sample: Probes,
    inputs: dict[str, Inputs],
    stored: NDArray[np.float32],
    pristine: bool,
    as_of: datetime,
    config: SkewConfig,
) -> Iterator[Rule]:
    """Every way in which the paths may disagree, each with a limit."""
    fresh = _fresh(inputs["online"], microseconds(as_of))
    least = int(np.ceil(config.compared_share * len(sample)))
    detail = f"of {len(sample)}; {int((~fresh).sum())} have events pushed since the store was filled"
    yield Rule("generation is filled from this online_store", float(pristine), "==", 1.0)
    yield Rule("probes compared", float(fresh.sum()), ">=", float(least), detail)

    for view in workload.features.VIEWS:
        for path in ("offline", "online"):
            missing = inputs[path].unknown[view.name] & ~inputs["batch"].unknown[view.name]
            yield Rule(
                f"{view.name} missing {path}", float(missing.sum()), "==", 0.0, _named(workload, sample, missing)
            )

    for left, right in (("online", "offline"), ("online", "batch"), ("offline", "batch")):
        one = _flat(inputs[left])
        other = _flat(inputs[right])
        yield _agreement(workload, left, right, sample, one, other, fresh, config.tolerance)

    real: NDArray[np.bool_] = ~np.isnan(stored[:, 0])
    if real.any():
        yield _agreement(workload, "stored", "batch", sample, stored, inputs["batch"].features, real, config.tolerance)


def _fresh(online: Inputs, as_of_us: int) -> NDArray[np.bool_]:
    """[P] whether no event of the probe's entity was scored since the store was filled; all where no view is recent."""
    if online.newest_us is None:
        return np.ones(len(online.features), bool)
    return online.newest_us < as_of_us


def _agreement(
    workload: Workload,
    left: str,
    right: str,
    sample: Probes,
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    rows: NDArray[np.bool_],
    tolerance: float,
) -> Rule:
    """The largest difference between two paths over `rows`, and the first value that differs, by name."""
    at = np.flatnonzero(rows)
    a = one[at].astype(np.float64)
    b = other[at].astype(np.float64)
    difference = np.abs(a - b) / np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
    name = f"{left} against {right}"

    if not difference.size:
        return Rule(name, None, "<=", tolerance, "nothing to compare")

    wrong = np.argwhere(~(difference <= tolerance))  # a difference that is not a number is one, too
    worst = float(difference.max())
    if not len(wrong):
        return Rule(name, worst, "<=", tolerance)

    row, column = wrong[0]
    where = f"{_names(workload, one.shape[1])[column]} of {_event(workload, sample, int(at[row]))}"
    values = f"{left} {a[row, column]:.9g}, {right} {b[row, column]:.9g}"
    detail = f"first: {where}: {values}; {len(np.unique(wrong[:, 0]))} of {len(at)} rows differ"
    return Rule(name, worst if np.isfinite(worst) else None, "<=", tolerance, detail)


def _flat(inputs: Inputs) -> NDArray[np.float32]:
    """Features and history, where there is one, side by side: [P, F + N · C]."""
    if inputs.history is None:
        return inputs.features
    return np.concatenate([inputs.features, inputs.history.reshape(len(inputs.history), -1)], axis=1)


def _names(workload: Workload, columns: int) -> list[str]:
    """Names of the columns of `_flat`, the newest event of the history being 1."""
    names, channels = list(workload.features.FEATURE_NAMES), workload.features.HISTORY_CHANNELS
    length = (columns - len(names)) // max(len(channels), 1)
    return names + [f"history {channel} {length - place} back" for place in range(length) for channel in channels]


def _named(workload: Workload, sample: Probes, rows: NDArray[np.bool_]) -> str:
    return f"first: {_event(workload, sample, int(rows.argmax()))}" if rows.any() else ""


def _event(workload: Workload, sample: Probes, row: int) -> str:
    """What people call an event, and its id."""
    return f"{workload.event[0]} {sample.requests.event_id[row]}"


def _write(
    lake: Path,
    workload: Workload,
    parents: dict[str, str],
    basis: dict[str, Any],
    generation: str,
    verdict: Verdict,
    sample: Probes,
    inputs: dict[str, Inputs],
) -> Manifest:
    """Verdict and inputs into a folder named by what was compared and what came out."""
    identity = content_id({"parents": parents, **basis, "verdict": verdict.to_dict()})
    step = Step(kind="skew_check", id=identity, workload=workload.name, lake=lake, parents=parents)
    with step.writing() as draft:
        verdict.write(draft.folder / "verdict.json")
        pq.write_table(_as_table(workload, sample, inputs), draft.folder / "sample.parquet")
        draft.facts |= {"passed": verdict.passed, "probes": len(sample), GENERATION: generation, **basis}
    log("skew checked", skew_check=identity, generation=generation, passed=verdict.passed, probes=len(sample))
    made = step.made()
    # One artifact holds the same verdict of several generations: this one is told to whoever asked.
    return replace(made, facts=made.facts | {GENERATION: generation})


def _as_table(workload: Workload, sample: Probes, inputs: dict[str, Inputs]) -> pa.Table:
    """One row per path and probe: whose event it is, FEATURE_NAMES, the history as one list where there is one."""
    parts = []

    for path, values in inputs.items():
        part = sample.identities(workload).append_column("path", pa.array([path] * len(sample)))
        for name, column in zip(workload.features.FEATURE_NAMES, np.ascontiguousarray(values.features.T), strict=True):
            part = part.append_column(name, pa.array(column))
        if values.history is not None:
            history = values.history.reshape(len(sample), -1)
            part = part.append_column("history", pa.array(list(history), pa.list_(pa.float32())))
        parts.append(part)
    return pa.concat_tables(parts)
