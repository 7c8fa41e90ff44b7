"""Alert precision from the prediction log: of the flagged transactions whose label is known, how many are frauds."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.compute as pc
from sqlalchemy import Engine

from millrace.errors import MillraceError
from millrace.events import log as prediction_log
from millrace.events.table import read_predictions
from millrace.observe.progress import log
from millrace.settings import Settings


class AlertSource:
    """Reads the log; one that cannot be read has no labels, which is what a young rollout has too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None

    def alerts(self, version: str, since: float, now: float) -> tuple[int, int]:
        """Flagged transactions of a version since then with a known label, and the frauds among them."""
        path = self._settings.prediction_log / "log.db"
        if not self._settings.prediction_log_url.get_secret_value() and not path.is_file():
            return 0, 0
        try:
            self._engine = self._engine or prediction_log.engine(self._settings)
            rows = read_predictions(
                self._engine,
                self._settings.workload,
                datetime.fromtimestamp(since, UTC),
                model_version=version,
                with_labels_known_at=datetime.fromtimestamp(now, UTC),
                columns=["decision"],
            )
        except MillraceError as error:
            log("labels_unknown", error=str(error))
            return 0, 0
        labels = rows.filter(pc.equal(rows["decision"], "review"))["is_fraud"].drop_null()
        return len(labels), pc.sum(labels).as_py() or 0
