"""Build a training set: rows, labels known in time, and the pool of events their histories are slices of.

In: a feature set. Out: the folder of arrays that `millrace.lake.training_set` opens. The join is ours, by position in
the sorted pool, not Feast's: docs/adr/0004 has the measurement, tests/contract proves them equal. A workload whose
model reads no history has no pool.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from components.assemble.arrays import Source, write_arrays
from millrace.errors import InvalidInput
from millrace.features.events import engine
from millrace.instants import start_of
from millrace.lake.atomic import exclusive, replacing_folder
from millrace.lake.horizon import TEST_DAYS, resolve_as_of, test_start
from millrace.lake.manifest import Manifest, content_id, hash_files
from millrace.lake.provenance import code_of
from millrace.lake.training_set import SPLITS
from millrace.observe.progress import log
from millrace.workload import load


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec:
    """Which days train, validate and test (docs/architecture.md, Time). Days are UTC, ends exclusive."""

    test_start: date
    """First day of the test window; the labels of train and validation are those known at its start."""
    train_days: int = 28
    """Days before the gap, validation included."""
    validation_days: int = 4
    """The last of the training days, held out for early stopping."""
    delay_days: int
    """Gap between training and test: labels of these days are not known yet (`Label.delay_days` of the workload)."""
    test_days: int = TEST_DAYS
    labels_until: datetime | None = None
    """Test labels known at this instant count; default: when the delay after the test window is over."""

    def __post_init__(self) -> None:
        if not isinstance(self.test_start, date) or isinstance(self.test_start, datetime):
            raise InvalidInput(f"test_start is {self.test_start!r}; wanted a date, such as date(2018, 9, 16)")
        for name, least in (("train_days", 2), ("validation_days", 1), ("delay_days", 0), ("test_days", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidInput(f"{name} is {value!r}; wanted an integer of at least {least}")
        if self.labels_until is not None and self.labels_until.tzinfo is None:
            raise InvalidInput(f"labels_until is {self.labels_until}; wanted a time with its zone, such as …T00:00Z")
        if self.validation_days >= self.train_days:
            raise InvalidInput(
                f"validation_days is {self.validation_days}; wanted less than train_days {self.train_days}"
            )

    @property
    def train_start(self) -> date:
        return self.validation_end - timedelta(days=self.train_days)

    @property
    def validation_start(self) -> date:
        return self.validation_end - timedelta(days=self.validation_days)

    @property
    def validation_end(self) -> date:
        return self.test_start - timedelta(days=self.delay_days)

    @property
    def test_end(self) -> date:
        return self.test_start + timedelta(days=self.test_days)

    @property
    def windows(self) -> dict[str, tuple[date, date]]:
        """Split → (first day, day after the last)."""
        windows = (
            (self.train_start, self.validation_start),
            (self.validation_start, self.validation_end),
            (self.test_start, self.test_end),
        )
        return dict(zip(SPLITS, windows, strict=True))

    @property
    def horizons(self) -> dict[str, datetime]:
        """Split → the instant at which its labels must be known."""
        start = start_of(self.test_start)
        test = self.labels_until or start_of(self.test_end + timedelta(days=self.delay_days))
        return dict(zip(SPLITS, (start, start, test), strict=True))


def split_of(feature_set: Manifest, as_of: str = "", **days: int) -> SplitSpec:
    """The windows of a run that speaks from `as_of` (ISO 8601, empty: the feature set's last day)."""
    instant = resolve_as_of(feature_set, as_of)
    delay_days = load(feature_set.workload).schema.LABEL.delay_days
    return SplitSpec(test_start=test_start(instant, delay_days), delay_days=delay_days, labels_until=instant, **days)


def assemble(
    feature_set: Manifest, lake: Path, spec: SplitSpec, *, threads: int = 2, memory_limit_gb: float = 3.0
) -> Manifest:
    """The training set of `spec`, made unless it is there already.

    Raises InvalidInput when the feature set does not hold the days of `spec` or a split has no rows;
    AlreadyRunning when another process assembles the same set.
    """
    history_length = int(feature_set.facts["history_length"])
    workload = load(feature_set.workload)
    code = code_of(Path(__file__).parent, *workload.files("schema", "features"))
    identity = content_id({"feature_set": feature_set.id, "spec": asdict(spec), "code": code})
    folder = lake / "training_sets" / identity
    if (done := Manifest.find(folder, "training_set")) is not None:
        return done
    _require_days(feature_set, spec)
    with (
        exclusive(folder.with_name(f".{identity}.lock"), f"assembling training set {identity}"),
        replacing_folder(folder) as aside,
    ):
        feature_set.verify(set(feature_set.table("events", last_day=spec.test_end - timedelta(days=1))))
        with engine(threads, memory_limit_gb, spill=aside) as connection:
            splits = write_arrays(Source(connection, feature_set, workload, spec, history_length), aside)
        facts = {
            "splits": splits,
            "test_start": str(spec.test_start),
            "history_length": history_length,
            "feature_service": feature_set.facts["feature_service"],
            "spec": {key: str(value) if isinstance(value, date) else value for key, value in asdict(spec).items()},
        }
        Manifest(
            kind="training_set",
            id=identity,
            workload=workload.name,
            uri=str(folder),
            parents={"feature_set": feature_set.id, **feature_set.parents},
            files=hash_files(aside),
            facts=facts,
        ).write(aside / "manifest.json")
    log("assembled", training_set=identity, **{name: split["rows"] for name, split in splits.items()})
    return Manifest.read(folder, "training_set")


def _require_days(feature_set: Manifest, spec: SplitSpec) -> None:
    first, last = (date.fromisoformat(feature_set.facts[key]) for key in ("first_day", "last_day"))
    end = spec.test_end - timedelta(days=1)
    if spec.train_start < first or end > last:
        raise InvalidInput(
            f"the split needs the days {spec.train_start} … {end}; "
            f"feature set {feature_set.id} holds {first} … {last}. "
            "Take another test_start, fewer train_days, or ingest the missing days."
        )
