"""The outcome report in MLflow: figures of the last judged week, the verdict, the page."""

from __future__ import annotations

from typing import Final

from millrace.lake.manifest import Manifest
from millrace.registry.mlflow_home import experiment_id, mlflow_client
from millrace.settings import Settings

EXPERIMENT: Final = "monitoring"


def log_report(report: Manifest, settings: Settings) -> str:
    """Log the report as a run of its own, once; the run's id."""
    from mlflow.entities import Metric, RunTag

    client = mlflow_client(settings.tracking_uri)
    identity = experiment_id(client, EXPERIMENT, settings)
    known = client.search_runs([identity], f"tags.outcome_report = '{report.id}'", max_results=1)
    if known:
        return str(known[0].info.run_id)
    run = client.create_run(identity, run_name=f"outcomes-{report.facts['as_of'][:10]}")
    facts = report.facts
    tags = {"passed": facts["passed"], "retrain": facts["retrain"], "failed": ", ".join(facts["failed"])}
    now = run.info.start_time
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in facts["metrics"].items()],
        tags=[RunTag(name, str(value)) for name, value in tags.items()],
    )
    for name in ("report.html", "report.json", "verdict.json"):
        if name in report.files:
            client.log_artifact(run.info.run_id, str(report.path(name)))
    client.set_tag(run.info.run_id, "outcome_report", report.id)  # last: a run that was cut off is logged again
    client.set_terminated(run.info.run_id, "FINISHED" if facts["passed"] else "FAILED")
    return str(run.info.run_id)
