"""The prequential protocol: weekly folds, each trained on its own past with the ordinary components.

`python -m run.backtest --data URI --from YYYY-MM-DD --weeks n [--days n] --out scores.parquet` writes
`fold, transaction_id, score` for every transaction of the test weeks and prints the table of workload metrics. Every
fold's artifacts stay in the lake, so a killed backtest goes on where it was.
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
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from components.assemble.core import SplitSpec, assemble
from components.build_features.core import build_features
from components.ingest.core import IngestConfig, ingest
from components.optimise.config import OptimiseConfig
from components.optimise.core import optimise
from components.train.core import read_config, train
from fraud.schema import LABEL_DELAY_DAYS
from millrace.errors import InvalidInput, MillraceError
from millrace.judge.ranking import ProtocolMetrics, mean_metrics, protocol_metrics
from millrace.judge.rows import Columns
from millrace.lake.atomic import replacing_file
from millrace.lake.horizon import TEST_DAYS
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings, settings
from millrace.workload import load
from run.source import IngestOptions

SCORE_ROWS = 8192
"""Rows whose histories are gathered at a time."""
SCORES = pa.schema([("fold", pa.int32()), ("transaction_id", pa.int64()), ("score", pa.float32())])


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestConfig:
    """Which folds to run."""

    first_test_day: date
    weeks: int = 4
    """Number of weekly folds."""
    train_days: int = 28
    """Length of the training window, days; it ends 7 days before the test week."""

    def __post_init__(self) -> None:
        for name in ("weeks", "train_days"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted at least 1")

    @property
    def test_starts(self) -> list[date]:
        return [self.first_test_day + timedelta(weeks=week) for week in range(self.weeks)]

    def require_within(self, snapshot: Manifest) -> None:
        """Raise InvalidInput when a fold needs days that the data does not have; before any compute is spent."""
        first, last = (date.fromisoformat(snapshot.facts[name]) for name in ("first_day", "last_day"))
        start = self.first_test_day - timedelta(days=LABEL_DELAY_DAYS + self.train_days)
        end = self.test_starts[-1] + timedelta(days=TEST_DAYS - 1)
        if start < first or end > last:
            raise InvalidInput(
                f"the folds need {start} … {end}; the data holds {first} … {last}. "
                "Choose a later --from, fewer --weeks, or fewer --days."
            )


@dataclass(frozen=True, slots=True)
class Fold:
    """One test week: the scores of all its transactions, and the protocol's figures."""

    test_start: date
    transaction_id: NDArray[np.int64]
    score: NDArray[np.float32]
    metrics: ProtocolMetrics


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
    delay_days = load(features.workload).schema.LABEL.delay_days
    spec = SplitSpec(test_start=test_start, delay_days=delay_days, train_days=config.train_days)
    limits = {"threads": settings.threads, "memory_limit_gb": settings.memory_limit_gb}
    training_set = assemble(features, settings.lake, spec, **limits)
    trained = train(training_set, settings.lake, read_config(load(training_set.workload)), settings)
    model = optimise(trained, training_set, settings.lake, OptimiseConfig(review_capacity=settings.review_capacity))
    transaction_id, score = score_test_rows(model, training_set)
    columns = load(settings.workload).judging.COLUMNS
    rows = judged_rows(features, test_start, columns)
    position = pc.index_in(rows["transaction_id"], pa.array(transaction_id)).fill_null(-1).to_numpy()
    scores = np.where(position >= 0, score[position], np.nan)
    metrics = protocol_metrics(rows, scores, test_start, columns, settings.review_capacity)
    log(
        "fold done", test_start=test_start, ap=metrics.average_precision, auc=metrics.auc_roc, cp=metrics.unit_precision
    )
    return Fold(test_start, transaction_id, score, metrics)


def score_test_rows(model: Manifest, training_set: Manifest) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and scores of every transaction of the test week, in time order, by the graph that would be served."""
    rows = TrainingSet(training_set)
    artifact = ModelArtifact.open(model.folder, threads=2)
    test = rows.rows_of("test")
    chunks = [test[start : start + SCORE_ROWS] for start in range(0, len(test), SCORE_ROWS)]
    scores = [artifact.score(*rows.batch(chunk, artifact.spec.sequence_length)) for chunk in chunks]
    ids = rows.table(["transaction_id"])["transaction_id"].to_numpy()[test]
    return ids, np.concatenate(scores)


def judged_rows(features: Manifest, test_start: date, columns: Columns) -> pa.Table:
    """What the protocol reads: the test week, and the days before it that tell which units are known already."""
    files = features.table(
        "events", test_start - timedelta(days=columns.known_days), test_start + timedelta(days=TEST_DAYS - 1)
    )
    wanted = ["transaction_id", *columns.names]
    return pa.concat_tables([pq.read_table(path, columns=wanted) for path in files])


def write_scores(folds: Sequence[Fold], path: Path) -> None:
    """`fold, transaction_id, score`, folds numbered from 0; aside, then renamed."""
    tables = [
        pa.table([np.full(len(fold.score), number, np.int32), fold.transaction_id, fold.score], schema=SCORES)
        for number, fold in enumerate(folds)
    ]
    with replacing_file(path) as aside:
        pq.write_table(pa.concat_tables(tables), aside)


def show(folds: Sequence[Fold]) -> None:
    """Print the figures of each fold and their mean."""
    table = Table("fold", "test week from", "rows", "frauds", "AUC", "AP", f"CP@{folds[0].metrics.k}")
    for number, fold in enumerate(folds):
        m = fold.metrics
        figures = (f"{value:.3f}" for value in (m.auc_roc, m.average_precision, m.unit_precision))
        table.add_row(str(number), str(fold.test_start), f"{m.rows:,}", f"{m.positives:,}", *figures)
    mean = mean_metrics(fold.metrics for fold in folds)
    table.add_section()
    table.add_row("mean", "", "", "", *(f"{mean[n]:.3f}" for n in ("auc_roc", "average_precision", "unit_precision")))
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, write, print; a MillraceError becomes one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m run.backtest", description=__doc__)
    parser.add_argument("--data", required=True, help="CSV or Parquet: file, folder, glob or fsspec URI")
    parser.add_argument("--from", dest="first", required=True, help="first test day, YYYY-MM-DD")
    parser.add_argument("--weeks", type=int, default=4, help="weekly folds (default 4)")
    parser.add_argument("--days", type=int, default=28, help="training window, days (default 28)")
    parser.add_argument("--out", type=Path, default=Path("scores.parquet"), help="where the scores go")
    IngestOptions.add_to(parser)
    arguments = parser.parse_args(argv)
    try:
        config = BacktestConfig(first_test_day=_date(arguments.first), weeks=arguments.weeks, train_days=arguments.days)
        if not arguments.data:
            raise InvalidInput("no data named. make backtest DATA=uri FROM=YYYY-MM-DD [WEEKS=n] [DAYS=n] [OUT=file]")
        here = settings(arguments.workload)
        folds = backtest(arguments.data, config, IngestOptions.of(arguments).config(here), here)
        write_scores(folds, arguments.out)
    except MillraceError as error:
        print(f"backtest: {error}", file=sys.stderr)
        return 1
    show(folds)
    print(f"{sum(len(fold.score) for fold in folds):,} scores in {arguments.out}")
    return 0


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"the first test day is {text!r}; wanted YYYY-MM-DD (make backtest … FROM=2018-07-25)"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
