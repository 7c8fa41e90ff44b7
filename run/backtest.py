"""The prequential protocol: weekly folds, each trained on its own past with the ordinary components.

`python -m run.backtest --data URI --from YYYY-MM-DD --weeks n [--days n] --out scores.parquet` writes what is answered
for every event of the test weeks and prints the figures of the workload's task; with `--test-days n` the test is one
window of n days instead. Every fold's artifacts stay in the lake, so a killed backtest goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from components.assemble.core import assemble
from components.assemble.splits import SplitSpec
from components.build_features.core import build_features
from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.optimise.config import OptimiseConfig
from components.optimise.core import optimise
from components.train.core import read_config, train
from millrace.errors import InvalidInput, MillraceError
from millrace.installed import Workload, load
from millrace.lake.atomic import replacing_file
from millrace.lake.horizon import TEST_DAYS
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings, settings
from run.figures import Figures, Outputs, figures_of, mean_of
from run.source import IngestOptions

SCORE_ROWS = 8192
"""Rows whose inputs are gathered at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestConfig:
    """Which folds to run."""

    first_test_day: date
    folds: int = 4
    """Test windows, one after the other."""
    test_days: int = TEST_DAYS
    """Length of a test window, days."""
    train_days: int = 28
    """Length of the training window, days; it ends as long before the test window as labels take."""

    def __post_init__(self) -> None:
        for name in ("folds", "test_days", "train_days"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted at least 1")

    @property
    def test_starts(self) -> list[date]:
        return [self.first_test_day + timedelta(days=fold * self.test_days) for fold in range(self.folds)]

    def require_within(self, snapshot: Manifest) -> None:
        """Raise InvalidInput when a fold needs days that the data does not have; before any compute is spent."""
        first, last = (date.fromisoformat(snapshot.facts[name]) for name in ("first_day", "last_day"))
        delay = load(snapshot.workload).schema.LABEL.delay_days
        start = self.first_test_day - timedelta(days=delay + self.train_days)
        end = self.test_starts[-1] + timedelta(days=self.test_days - 1)
        if start < first or end > last:
            raise InvalidInput(
                f"the folds need {start} … {end}; the data holds {first} … {last}. "
                "Choose a later --from, fewer --weeks, or fewer --days."
            )


@dataclass(frozen=True, slots=True)
class Fold:
    """One test window: what is answered for all its events, and how good that is."""

    test_start: date
    event_id: NDArray[np.int64]
    outputs: Outputs
    figures: Figures


def backtest(source: str, config: BacktestConfig, ingest_config: IngestConfig, settings: Settings) -> list[Fold]:
    """Ingest, build features once, then assemble, train, optimise and score each fold with the served graph."""
    snapshot = ingest(source, settings.lake, ingest_config)
    config.require_within(snapshot)
    features = build_features(
        snapshot,
        settings.lake,
        history_length=settings.history_length,
        threads=settings.threads,
        memory_limit_gb=settings.memory_limit_gb,
    )
    return [_fold(features, test_start, config, settings) for test_start in config.test_starts]


def _fold(features: Manifest, test_start: date, config: BacktestConfig, settings: Settings) -> Fold:
    log("fold", test_start=test_start)
    workload = load(features.workload)
    spec = SplitSpec(
        test_start=test_start,
        train_days=config.train_days,
        test_days=config.test_days,
        delay_days=workload.schema.LABEL.delay_days,
    )
    limits = {"threads": settings.threads, "memory_limit_gb": settings.memory_limit_gb}
    training_set = assemble(features, settings.lake, spec, **limits)
    trained = train(training_set, settings.lake, read_config(workload), settings)
    model = optimise(trained, training_set, settings.lake, OptimiseConfig(review_capacity=settings.review_capacity))
    ids, outputs = window_outputs(model, training_set)
    rows = judged_rows(features, workload, test_start, config.test_days)
    figures = figures_of(workload, rows, ids, outputs, test_start, config.test_days, settings.review_capacity)
    log("fold done", test_start=test_start, **figures)
    return Fold(test_start, ids, outputs, figures)


def window_outputs(model: Manifest, training_set: Manifest) -> tuple[NDArray[np.int64], Outputs]:
    """Ids and outputs of every event of the test window, in time order, by the graph that would be served."""
    rows = TrainingSet(training_set)
    artifact = ModelArtifact.open(model.fetch(), threads=2)
    test = rows.rows_of("test")
    chunks = [test[start : start + SCORE_ROWS] for start in range(0, len(test), SCORE_ROWS)]
    parts = [artifact.predict(*rows.batch(chunk, artifact.spec.sequence_length)) for chunk in chunks]
    name = rows.workload.schema.EVENT_ID
    ids = rows.table([name])[name].to_numpy()[test]
    return ids, {output: np.concatenate([part[output] for part in parts]) for output in artifact.spec.outputs}


def judged_rows(features: Manifest, workload: Workload, test_start: date, test_days: int) -> pa.Table:
    """What the protocol reads: the test window, and the days before it that tell which units are known already."""
    columns = workload.judging.COLUMNS
    first, last = test_start - timedelta(days=columns.known_days), test_start + timedelta(days=test_days - 1)
    wanted = [workload.schema.EVENT_ID, *columns.names]
    files = features.table("events", first, last)
    return pa.concat_tables([pq.read_table(path, columns=wanted) for path in files])


def write_scores(folds: Sequence[Fold], event_id: str, path: Path) -> None:
    """`fold`, the event's id, `score` and what else is answered, folds numbered from 0; aside, then renamed."""
    tables = [
        pa.table(
            {
                "fold": np.full(len(fold.event_id), number, np.int32),
                event_id: fold.event_id,
                **fold.outputs,
            }
        )
        for number, fold in enumerate(folds)
    ]
    with replacing_file(path) as aside:
        pq.write_table(pa.concat_tables(tables), aside)


def show(folds: Sequence[Fold]) -> None:
    """Print the figures of each fold and their mean."""
    names = list(folds[0].figures)
    table = Table("fold", "test window from", *names)
    for number, fold in enumerate(folds):
        table.add_row(str(number), str(fold.test_start), *map(_shown, fold.figures.values()))
    mean = mean_of([fold.figures for fold in folds])
    table.add_section()
    table.add_row("mean", "", *(_shown(mean[name]) if name in mean else "" for name in names))
    Console().print(table)


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, write, print; a MillraceError becomes one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m run.backtest", description=__doc__)
    parser.add_argument("--data", required=True, help="CSV or Parquet: file, folder, glob or fsspec URI")
    parser.add_argument("--from", dest="first", required=True, help="first test day, YYYY-MM-DD")
    parser.add_argument("--weeks", type=int, default=4, help="weekly folds (default 4)")
    parser.add_argument("--test-days", type=int, default=0, help="one test window of so many days, instead of weeks")
    parser.add_argument("--days", type=int, default=28, help="training window, days (default 28)")
    parser.add_argument("--out", type=Path, default=Path("scores.parquet"), help="where the scores go")
    IngestOptions.add_to(parser)
    arguments = parser.parse_args(argv)
    try:
        config = _config(arguments)
        if not arguments.data:
            raise InvalidInput("no data named. make backtest DATA=uri FROM=YYYY-MM-DD [WEEKS=n] [DAYS=n] [OUT=file]")
        here = settings(arguments.workload)
        folds = backtest(arguments.data, config, IngestOptions.of(arguments).config(here), here)
        write_scores(folds, load(here.workload).schema.EVENT_ID, arguments.out)
    except MillraceError as error:
        print(f"backtest: {error}", file=sys.stderr)
        return 1
    show(folds)
    print(f"{sum(len(fold.event_id) for fold in folds):,} scores in {arguments.out}")
    return 0


def _config(arguments: argparse.Namespace) -> BacktestConfig:
    windows = {"folds": 1, "test_days": arguments.test_days} if arguments.test_days else {"folds": arguments.weeks}
    return BacktestConfig(first_test_day=_date(arguments.first), train_days=arguments.days, **windows)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"the first test day is {text!r}; wanted YYYY-MM-DD (make backtest … FROM=2018-07-25)"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
