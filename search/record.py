"""What MLflow is told about a search: a run per trial, with its parameters, its curve and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from components.train.core import AnyTrainConfig
from millrace.lake.manifest import Manifest
from millrace.lake.provenance import code_version
from millrace.registry.mlflow_home import experiment_id, mlflow_client
from millrace.settings import Settings

EXPERIMENT: Final = "search"


class Record:
    """The runs of one study."""

    def __init__(self, settings: Settings, study: str, training_set: Manifest) -> None:
        self.client, self.study, self.training_set = mlflow_client(settings.tracking_uri), study, training_set
        self.experiment = experiment_id(self.client, EXPERIMENT, settings)

    def recover(self) -> None:
        """Close the runs that a killed search left open."""
        wanted = f"attributes.status = 'RUNNING' and tags.study = '{self.study}'"
        for run in self.client.search_runs([self.experiment], wanted):
            self.client.set_terminated(run.info.run_id, "KILLED")

    @contextmanager
    def trial(self, trial: Any, config: AnyTrainConfig) -> Iterator[Callable[[dict[str, float]], None]]:
        """A run that takes points of the curve; FINISHED, KILLED where the trial was given up, or FAILED."""
        import optuna
        from mlflow.entities import Metric, Param

        tags = {"study": self.study, "trial": str(trial.number), "training_set_id": self.training_set.id}
        tags |= {"code_version": code_version()}
        run = self.client.create_run(self.experiment, tags=tags, run_name=f"{self.study}-{trial.number}").info.run_id
        values = config.model_dump()
        params = {**values.pop("model"), **values}
        self.client.log_batch(run, params=[Param(name, str(value)) for name, value in params.items()])

        def told(point: dict[str, float]) -> None:
            now, step = int(time.time() * 1000), int(point["epoch"])
            metrics = [Metric(name, value, now, step) for name, value in point.items() if name != "epoch"]
            self.client.log_batch(run, metrics=metrics)

        status = "FAILED"
        try:
            yield told
            status = "FINISHED"
        except optuna.TrialPruned:
            status = "KILLED"
            self.client.set_tag(run, "pruned", "true")
            raise
        finally:
            self.client.set_terminated(run, status)
