"""Build a training set: rows, labels known in time, and the pool of events their histories are slices of.

In: a feature set. Out: the folder of arrays that `millrace.lake.training_set` opens. The join is ours, by position in
the sorted pool, not Feast's: docs/adr/0004 has the measurement, tests/contract proves them equal. A workload whose
model reads no history has no pool.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.assemble.arrays import Source, write_arrays
from components.assemble.splits import SplitSpec
from millrace.errors import InvalidInput
from millrace.features.events import engine
from millrace.installed import load
from millrace.lake.horizon import resolve_as_of, test_start
from millrace.lake.manifest import Manifest, content_id, list_manifests
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
from millrace.lake.windows import Cases, fit_windows
from millrace.observe.progress import log


def split_of(feature_set: Manifest, as_of: str = "", **days: int) -> SplitSpec:
    """The windows of a run that speaks from `as_of` (ISO 8601, empty: the feature set's last day)."""
    instant = resolve_as_of(feature_set, as_of)
    delay_days = load(feature_set.workload).schema.LABEL.delay_days
    return SplitSpec(test_start=test_start(instant, delay_days), delay_days=delay_days, labels_until=instant, **days)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a run asks for; with the feature set it decides the windows."""

    as_of: str = ""
    """ISO 8601; empty: the feature set's last day."""
    train_days: int = 0
    """0: as many as the data want, as below."""
    validation_days: int = 0


def assemble_fitted(
    feature_set: Manifest, lake: Path, asked: Asked, *, threads: int = 2, memory_limit_gb: float = 3.0
) -> Manifest:
    """The training set of the windows that fit; no data are read where the same was asked of them before.

    Raises as `fitted_split` and `assemble` do.
    """
    judging = code_of(*load(feature_set.workload).files("judging"))  # says which rows are cases
    code = _code(feature_set), judging
    signature = content_id({"feature_set": feature_set.id, "asked": asdict(asked), "code": code})
    for made in list_manifests(lake / "training_sets", "training_set"):
        if made.facts.get("asked") == signature:
            return made
    spec = fitted_split(feature_set, asked.as_of, asked.train_days, asked.validation_days)
    return assemble(feature_set, lake, spec, asked=signature, threads=threads, memory_limit_gb=memory_limit_gb)


def fitted_split(feature_set: Manifest, as_of: str = "", train_days: int = 0, validation_days: int = 0) -> SplitSpec:
    """The windows of a run that speaks from `as_of`, as long as its cases want them; what is not 0 is kept.

    Raises InvalidInput when the feature set holds too few days.
    """
    instant = resolve_as_of(feature_set, as_of)
    workload = load(feature_set.workload)
    delay_days = workload.schema.LABEL.delay_days
    first = date.fromisoformat(feature_set.facts["first_day"])
    files = feature_set.table("events", last_day=instant.date())
    columns = workload.judging.COLUMNS.required
    rows = pa.concat_tables(pq.read_table(path, columns=columns, partitioning=None) for path in files)

    found = fit_windows(
        Cases.among(workload, rows, instant), first, train_days=train_days, validation_days=validation_days
    )
    log("windows", train_days=found.train_days, validation_days=found.validation_days, test_days=found.test_days)
    start = instant.date() - timedelta(days=delay_days + found.test_days)
    return SplitSpec(test_start=start, delay_days=delay_days, labels_until=instant, **asdict(found))


def assemble(
    feature_set: Manifest,
    lake: Path,
    spec: SplitSpec,
    *,
    asked: str = "",
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """The training set of `spec`, made unless it is there already; it keeps `asked`, what it was made for.

    Raises InvalidInput when the feature set does not hold the days of `spec` or a split has no rows;
    AlreadyRunning when another process assembles the same set.
    """
    history_length = int(feature_set.facts["history_length"])
    workload = load(feature_set.workload)
    identity = content_id({"feature_set": feature_set.id, "spec": asdict(spec), "code": _code(feature_set)})
    parents = feature_set.as_parents()
    step = Step(kind="training_set", id=identity, workload=workload.name, lake=lake, parents=parents)
    done = step.found()
    if done is not None:
        return done

    _require_days(feature_set, spec)
    with step.alone("assembling training set"), step.writing() as draft:
        feature_set.verify(set(feature_set.table("events", last_day=spec.test_end - timedelta(days=1))))
        with engine(threads, memory_limit_gb, spill=draft.folder) as connection:
            splits = write_arrays(Source(connection, feature_set, workload, spec, history_length), draft.folder)
        draft.facts |= {
            "splits": splits,
            "asked": asked,
            "test_start": str(spec.test_start),
            "history_length": history_length,
            "feature_service": feature_set.facts["feature_service"],
            "spec": {key: str(value) if isinstance(value, date) else value for key, value in asdict(spec).items()},
        }
    log("assembled", training_set=identity, **{name: split["rows"] for name, split in splits.items()})
    return step.made()


def _code(feature_set: Manifest) -> str:
    """Hash of all code that decides windows and rows."""
    return code_of(Path(__file__).parent, *load(feature_set.workload).files("schema", "features"))


def _require_days(feature_set: Manifest, spec: SplitSpec) -> None:
    first, last = (date.fromisoformat(feature_set.facts[key]) for key in ("first_day", "last_day"))
    end = spec.test_end - timedelta(days=1)
    if spec.train_start < first or end > last:
        raise InvalidInput(
            f"the split needs the days {spec.train_start} … {end}; "
            f"feature set {feature_set.id} holds {first} … {last}. "
            "Take another test_start, fewer train_days, or ingest the missing days."
        )
