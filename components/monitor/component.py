"""KFP faces: `monitor` judges how the served model does, `announce` tells the retraining trigger."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def monitor(
    outcomes: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    as_of: str = "",
    workload: str = "",
    overrides: dict = {},  # noqa: B006 - a KFP default is a constant
) -> None:
    """Join labels with predictions and judge; a failed verdict is an alarm, not a failed step."""
    import json
    from pathlib import Path

    from components.monitor.config import MonitorConfig
    from components.monitor.core import instant_of
    from components.monitor.core import monitor as verb
    from components.monitor.tracking import log_report
    from millrace.settings import settings

    here = settings(workload)
    result = verb(here, instant_of(as_of), MonitorConfig.load(overrides=overrides))
    result.hand_over(Path(outcomes.path))
    passed = result.facts["passed"]
    outcomes.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "passed": passed}
    for name, value in result.facts["metrics"].items():
        metrics.log_metric(name, value)
    # kfp.local's cache takes an artifact without a file for one that was lost.
    Path(metrics.path).write_text(json.dumps(result.facts["metrics"]), encoding="utf-8")
    Path(report.path).write_bytes(result.path("report.html").read_bytes())
    log_report(result, here)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def announce(outcomes: dsl.Input[dsl.Artifact]) -> str:
    """Send the alarm, if there is one; returns what came of it."""
    from pathlib import Path

    from components.monitor.announce import announce as verb
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    return verb(Manifest.read(Path(outcomes.path), "outcome_report"), settings().retraining_trigger_url)
