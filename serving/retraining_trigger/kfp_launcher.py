"""Retrainings as runs of the pipeline `millrace-retraining` at a Kubeflow Pipelines host.

The run's name is made from the retraining's id and looked up before it is started, so that starting twice starts once;
and nothing is started while any run of the experiment goes on. That a gate declined it stands in the home, which the
steps and the trigger share. Credentials are kfp's, as in `run/kfp_host.py`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from millrace.errors import NotFound, Unavailable
from millrace.judge.refusals import refusal_of
from millrace.lake.atomic import sha256_text
from millrace.registry.models import Registry, served
from millrace.registry.retraining import DECLINED, FAILED, PROMOTED, columns_of, source_of
from millrace.settings import Settings
from serving.retraining_trigger.launcher import Status

PIPELINE: Final = "millrace-retraining"
EXPERIMENT: Final = "millrace-retraining"
GOING_ON: Final = frozenset({"PENDING", "RUNNING", "PAUSED", "CANCELING"})
PAGE: Final = 50


class KfpLauncher:
    """A launcher at `settings.kfp_host`; raises Unavailable when the host does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connected: Any = None

    def start(self, identity: str, reason: str) -> None:
        with self._answering() as client:
            experiment = client.create_experiment(EXPERIMENT, namespace=self._namespace()).experiment_id
            runs = self._runs(client)
            if any(run.display_name == name_of(identity) for run in runs):
                return
            if going_on := [run.display_name for run in runs if run.state in GOING_ON]:
                raise Unavailable(f"{going_on[0]} goes on in experiment {EXPERIMENT}; one retraining at a time")
            pipeline = client.get_pipeline_id(PIPELINE)
            if pipeline is None:
                raise NotFound(f"no pipeline {PIPELINE!r} at {self._host()}. Upload it with make submit")
            versions = client.list_pipeline_versions(pipeline, page_size=1, sort_by="created_at desc")
            client.run_pipeline(
                experiment,
                name_of(identity),
                params=self._arguments(reason),
                pipeline_id=pipeline,
                version_id=versions.pipeline_versions[0].pipeline_version_id,
            )

    def status(self, identity: str) -> Status:
        with self._answering() as client:
            run = next((run for run in self._runs(client) if run.display_name == name_of(identity)), None)
            if run is None:
                return Status("absent")
            if run.state in GOING_ON or run.state is None:
                return Status("running")
            if run.state == "SUCCEEDED":
                version = next((x.version for x in Registry(self._settings).versions()), None)
                return Status("ended", PROMOTED, f"run {run.run_id}; newest version {version}")
            refusal = refusal_of(self._settings.home, run.run_id)
            if refusal is not None:
                return Status("ended", DECLINED, refusal.sentence)
            failed = self._failed_steps(client, run.run_id)
            return Status("ended", FAILED, f"run {run.run_id} ended {run.state} at {', '.join(failed) or 'no step'}")

    def stop(self, identity: str) -> None:
        with self._answering() as client:
            for run in self._runs(client):
                if run.display_name == name_of(identity) and run.state in GOING_ON:
                    client.terminate_run(run.run_id)

    def _runs(self, client: Any) -> list[Any]:
        """The newest runs of the experiment."""
        experiment = client.create_experiment(EXPERIMENT, namespace=self._namespace()).experiment_id
        page = client.list_runs(experiment_id=experiment, page_size=PAGE, sort_by="created_at desc")
        return list(page.runs or [])

    def _failed_steps(self, client: Any, run_id: str) -> list[str]:
        details = client.get_run(run_id).run_details
        tasks = (details.task_details if details else None) or []
        names = [task.display_name for task in tasks if task.state == "FAILED"]
        return [name for name in names if name not in (PIPELINE, "root") and not name.endswith("-driver")]

    def _arguments(self, reason: str) -> dict[str, Any]:
        champion = served(self._settings)
        if champion is None:
            raise NotFound(f"nothing is served from {self._settings.home}: no champion to beat. Train the first one")
        return {
            "workload": self._settings.workload,
            "source": source_of(self._settings, champion),
            "columns": columns_of(self._settings, champion),
            "source_version": datetime.now(UTC).isoformat(timespec="seconds"),
            "champion": champion.artifact_id,
            "reason": reason,
            "train_days": self._settings.retraining_train_days,
        }

    def _host(self) -> str:
        return self._settings.kfp_host or "the cluster's own KFP API"

    def _namespace(self) -> str | None:
        return self._settings.kfp_namespace or None

    @contextmanager
    def _answering(self) -> Iterator[Any]:
        import kfp_server_api
        import urllib3

        try:
            self._connected = self._connected or self._connect()
            yield self._connected
        except kfp_server_api.ApiException as error:
            raise Unavailable(f"KFP at {self._host()} answered {error.status}: {str(error.body)[:300]}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(f"KFP at {self._host()} cannot be reached: {error}") from error

    def _connect(self) -> Any:
        import kfp

        class Client(kfp.Client):  # type: ignore[misc]
            """Asks the host once, not five times with 5 s between."""

            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:  # noqa: ARG002 - kfp's signature
                return self._healthz_api.healthz_service_get_healthz(_request_timeout=10)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Client(
                host=self._settings.kfp_host or None,
                namespace=self._namespace() or "kubeflow",
                existing_token=os.environ.get("MILLRACE_KFP_TOKEN"),
                cookies=os.environ.get("MILLRACE_KFP_COOKIES"),
            )


def name_of(identity: str) -> str:
    """The run's name; the same id gives the same name."""
    return f"retraining-{sha256_text(identity)[:16]}"
