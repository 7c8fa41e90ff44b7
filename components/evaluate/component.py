"""KFP face of `evaluate`: model and training set in, evaluation, KFP's metrics and the page out."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model],
    training_set: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    champion: str = "",
    overrides: dict = {},  # noqa: B006 - a KFP default is a constant
    profile: str = "",
    accept: dict = {},  # noqa: B006
) -> None:
    """Judge a model on its test window; never blocks by itself: the gate reads the verdict. A quantity has no curve."""
    import json
    from pathlib import Path

    from components.evaluate.config import load_limits
    from components.evaluate.core import evaluate as verb
    from components.evaluate.core import find_model
    from millrace.installed import load
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    rows = Manifest.read(Path(training_set.path), "training_set")
    here = settings(rows.workload)
    workload = load(rows.workload)
    result = verb(
        Manifest.read(Path(model.path), "model"),
        rows,
        find_model(here, champion),
        here.lake,
        load_limits(workload, overrides, profile=profile),
        accept=accept,
        review_capacity=here.review_capacity,
        threads=here.threads,
    )
    result.hand_over(Path(evaluation.path))
    passed = result.facts["passed"]
    evaluation.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "passed": passed}
    for name, value in result.facts["metrics"].items():
        metrics.log_metric(name, value)
    document = json.loads(result.path("report.json").read_text(encoding="utf-8"))
    # kfp.local's cache takes an artifact without a file for one that was lost.
    Path(metrics.path).write_text(json.dumps(result.facts["metrics"]), encoding="utf-8")
    roc, at_threshold = document.get("roc"), document.get("at_threshold")
    Path(classification.path).write_text(json.dumps(roc), encoding="utf-8")
    if roc is not None:
        classification.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])
    if at_threshold is not None:
        names = [workload.ranked.NEGATIVE, workload.ranked.POSITIVE_NOUN[0]]
        classification.log_confusion_matrix(names, at_threshold["confusion"])
    Path(report.path).write_bytes(result.path("report.html").read_bytes())
