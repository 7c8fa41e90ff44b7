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
) -> None:
    """Judge a model on its test week; never blocks by itself: the gate reads the verdict."""
    import json
    from pathlib import Path

    from components.evaluate.config import EvaluateConfig
    from components.evaluate.core import evaluate as verb
    from components.evaluate.core import find_model
    from millrace.lake.manifest import Manifest
    from millrace.settings import settings

    rows = Manifest.read(Path(training_set.path), "training_set")
    here = settings(rows.workload)
    result = verb(
        Manifest.read(Path(model.path), "model"),
        rows,
        find_model(here, champion),
        here.lake,
        EvaluateConfig.load(overrides=overrides),
        review_capacity=here.review_capacity,
        threads=here.threads,
    )
    result.hand_over(Path(evaluation.path))
    passed = result.facts["passed"]
    evaluation.metadata = {"id": result.id, "kind": result.kind, "uri": result.uri, "passed": passed}
    for name, value in result.facts["metrics"].items():
        metrics.log_metric(name, value)
    document = json.loads(result.path("report.json").read_text())
    roc = document["roc"]
    # kfp.local's cache takes an artifact without a file for one that was lost.
    Path(metrics.path).write_text(json.dumps(result.facts["metrics"]))
    classification.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["threshold"])
    classification.log_confusion_matrix(["genuine", "fraud"], document["at_threshold"]["confusion"])
    Path(classification.path).write_text(json.dumps(roc))
    Path(report.path).write_bytes(result.path("report.html").read_bytes())
