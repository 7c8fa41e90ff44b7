"""What labels say of a version's answers, from the prediction log: were flagged events positive, how far off was it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from millrace.errors import MillraceError
from millrace.events import log as prediction_log
from millrace.events.prediction import REVIEW, SHADOW
from millrace.events.table import read_predictions
from millrace.installed import load
from millrace.observe.progress import log
from millrace.rollout.observations import Alerts, Errors
from millrace.settings import Settings
from millrace.workload import Task


class LabelSource:
    """Reads the log; one that cannot be read has no labels, which is what a young rollout has too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workload = load(settings.workload)
        self._engine: Engine | None = None

    def known(self, version: str, since: float, now: float) -> Alerts | Errors:
        """Of the answers of a version since then whose label is known."""
        quantity = self._workload.task is Task.REGRESSION
        try:
            rows = self._read(version, since, now, "score" if quantity else "decision")
        except MillraceError as error:
            log("labels_unknown", error=str(error))
            rows = None
        if rows is None:
            return Errors() if quantity else Alerts()
        return self._errors(rows) if quantity else self._alerts(rows)

    def _read(self, version: str, since: float, now: float, column: str) -> pa.Table | None:
        """The version's answers with a known label; None where there is no log."""
        path = self._settings.prediction_log / "log.db"
        if not self._settings.prediction_log_url.get_secret_value() and not path.is_file():
            return None
        self._engine = self._engine or prediction_log.engine(self._settings)
        rows = read_predictions(
            self._engine,
            self._workload.name,
            datetime.fromtimestamp(since, UTC),
            model_version=version,
            with_labels_known_at=datetime.fromtimestamp(now, UTC),
            columns=[column, "arm"],
        )
        label = self._workload.schema.LABEL.column
        kept = pc.and_(pc.is_valid(rows[label]), pc.not_equal(pc.fill_null(rows["arm"], ""), SHADOW))
        return rows.filter(kept)

    def _alerts(self, rows: pa.Table) -> Alerts:
        labels = rows.filter(pc.equal(rows["decision"], REVIEW))[self._workload.schema.LABEL.column]
        return Alerts(len(labels), pc.sum(labels).as_py() or 0)

    def _errors(self, rows: pa.Table) -> Errors:
        truth = rows[self._workload.schema.LABEL.column].cast(pa.float64()).to_numpy()
        error = np.abs(rows["score"].to_numpy() - truth)
        error = error[np.isfinite(error)]
        return Errors(len(error), float(error.mean()), float(error.var(ddof=1))) if len(error) > 1 else Errors()
