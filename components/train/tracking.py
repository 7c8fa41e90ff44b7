"""What MLflow is told about a training run: parameters, seeds, the curve, versions, hardware, where rows came from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from components.train.core import AnyTrainConfig
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.lake.provenance import code_version, hardware, package_versions
from millrace.registry.mlflow_home import experiment_id, mlflow_client
from millrace.settings import Settings

EXPERIMENT: Final = "training"
RUN_ID: Final = "mlflow_run_id"


class Tracking:
    """One MLflow run; a resumed training goes on in the run it began."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._logged = len(client.get_metric_history(run_id, "loss"))

    @classmethod
    def open(
        cls, training_set: Manifest, config: AnyTrainConfig, settings: Settings, identity: str, work: Path
    ) -> Tracking:
        """Find or create the run of this training."""
        client = mlflow_client(settings.tracking_uri)
        kept = work / RUN_ID
        if kept.is_file():
            return cls(client, kept.read_text(encoding="utf-8"))

        run = client.create_run(experiment_id(client, EXPERIMENT, settings), run_name=f"train-{identity}")
        _describe(client, run.info.run_id, training_set, config, settings, identity)
        write_text(kept, run.info.run_id)
        return cls(client, run.info.run_id)

    def log_curve(self, curve: Path) -> None:
        """Log the epochs that were not logged yet, in one call."""
        from mlflow.entities import Metric

        points = json.loads(curve.read_text(encoding="utf-8")) if curve.is_file() else []
        fresh = points[self._logged :]
        if not fresh:
            return
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, int(point["epoch"]))
            for point in fresh
            for name, value in point.items()
            if name != "epoch"
        ]
        self.client.log_batch(self.run_id, metrics=metrics)
        self._logged = len(points)

    def close(self, status: str) -> None:
        """End the run as FINISHED or FAILED."""
        self.client.set_terminated(self.run_id, status)


def _describe(
    client: Any, run_id: str, training_set: Manifest, config: AnyTrainConfig, settings: Settings, identity: str
) -> None:
    from mlflow.entities import Param, RunTag

    values = config.model_dump()
    params = {**values.pop("model"), **values, "processes": settings.processes, "training_set": training_set.id}
    params |= training_set.parents
    params |= {f"version.{name}": version for name, version in package_versions().items()}
    params |= {f"hardware.{name}": value for name, value in hardware().items()}
    tags = {"model_id": identity, "training_set_id": training_set.id, "code_version": code_version()}
    tags |= {f"{kind}_id": parent for kind, parent in training_set.parents.items()}
    client.log_batch(
        run_id,
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag(name, str(value)) for name, value in tags.items()],
    )
