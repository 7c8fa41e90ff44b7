"""From raw events to a promoted model version. Composition only: what a step does is in its component."""

from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Model

from components.assemble.component import assemble
from components.build_features.component import build_features
from components.check_skew.component import check_skew
from components.evaluate.component import evaluate
from components.gate.component import gate_challenger, gate_data, gate_model
from components.ingest.component import ingest
from components.materialize.component import materialize
from components.optimise.component import optimise
from components.promote.component import promote
from components.train.component import train
from components.validate.component import validate
from pipelines.cluster import on_cluster

Parameter = Any
"""A parameter of the pipeline that is being composed: kfp puts a channel in its place."""
RUN = dsl.PIPELINE_JOB_ID_PLACEHOLDER
"""The run's id: Kubeflow Pipelines puts it in here, and `run.local` on this machine."""


class Outputs(NamedTuple):
    """The manifest of every artifact, for those who look at a run from outside."""

    snapshot: Dataset
    validation: Dataset
    feature_set: Dataset
    online_store: Dataset
    training_set: Dataset
    model: Model
    evaluation: Dataset
    skew_check: Dataset
    promotion: Dataset


def compose(
    *,
    source: Parameter,
    source_version: Parameter,
    columns: Parameter,
    workload: Parameter,
    as_of: Parameter,
    train_days: Parameter,
    champion: Parameter,
    validate_overrides: Parameter,
    train_overrides: Parameter,
    evaluate_overrides: Parameter,
    profile: Parameter,
    accept: Parameter,
    variant: Parameter | None = None,
    challenge: Parameter | None = None,
    canary_percent: Parameter | None = None,
) -> Outputs:
    """The steps, for every pipeline that ends with a model; `challenge` is why a new model wants to take over.

    With it, the model must beat the champion to be promoted at all, the reason goes into the audit log, and
    `canary_percent` is the traffic that the model gets at once.
    """
    ingested = ingest(
        source=source,
        source_version=source_version,
        columns=columns,
        workload=workload,
        **({} if variant is None else {"variant": variant}),
    )
    snapshot = ingested.outputs["snapshot"]

    validated = validate(
        snapshot=snapshot,
        overrides=validate_overrides,
        profile=profile,
        accept=accept,
        as_of=as_of,
        train_days=train_days,
    )
    validation = validated.outputs["validation"]
    data_passed = gate_data(validation=validation, run_id=RUN)
    data_passed.set_caching_options(False)  # as the other gates: what it leaves is of this run

    built = build_features(snapshot=snapshot).after(data_passed)
    feature_set = built.outputs["feature_set"]
    materialized = materialize(feature_set=feature_set, as_of=as_of)
    materialized.set_caching_options(False)  # fills a store that others write to
    online_store = materialized.outputs["online_store"]

    assembled = assemble(feature_set=feature_set, as_of=as_of, train_days=train_days)
    training_set = assembled.outputs["training_set"]
    trained = train(training_set=training_set, overrides=train_overrides)
    optimised = optimise(model=trained.outputs["model"], training_set=training_set)
    model = optimised.outputs["optimised"]

    evaluated = evaluate(
        model=model,
        training_set=training_set,
        champion=champion,
        overrides=evaluate_overrides,
        profile=profile,
        accept=accept,
    )
    evaluation = evaluated.outputs["evaluation"]
    skew_checked = check_skew(feature_set=feature_set, online_store=online_store, accept=accept)
    skew_check = skew_checked.outputs["skew_check"]
    model_passed = gate_model(evaluation=evaluation, skew_check=skew_check, run_id=RUN)
    model_passed.set_caching_options(False)

    judged = [model_passed]
    if challenge is not None:
        challenge_won = gate_challenger(evaluation=evaluation, run_id=RUN).after(model_passed)
        challenge_won.set_caching_options(False)
        on_cluster(challenge_won)
        judged.append(challenge_won)

    promoted = promote(
        model=model,
        evaluation=evaluation,
        skew_check=skew_check,
        validation=validation,
        run_id=RUN,
        **({} if challenge is None else {"reason": challenge, "canary_percent": canary_percent}),
    ).after(*judged)
    promoted.set_caching_options(False)  # changes the registry

    on_cluster(ingested, validated, data_passed, built, materialized, assembled, trained, optimised)
    on_cluster(evaluated, skew_checked, model_passed, promoted)
    return Outputs(
        snapshot=snapshot,
        validation=validation,
        feature_set=feature_set,
        online_store=online_store,
        training_set=training_set,
        model=model,
        evaluation=evaluation,
        skew_check=skew_check,
        promotion=promoted.outputs["promotion"],
    )


@dsl.pipeline(name="millrace-training", description="Raw events to a judged and promoted model.")
def training(
    source: str,
    source_version: str = "",
    columns: dict = {},  # noqa: B006  kfp reads defaults from the signature
    workload: str = "",
    variant: dict = {},  # noqa: B006
    as_of: str = "",
    train_days: int = 0,
    champion: str = "",
    validate_overrides: dict = {},  # noqa: B006
    train_overrides: dict = {},  # noqa: B006
    evaluate_overrides: dict = {},  # noqa: B006
    profile: str = "",
    accept: dict = {},  # noqa: B006
) -> Outputs:
    """Ingest, validate, build features, train, judge and promote; each gate stops what comes after it.

    Args:
        source: CSV or Parquet behind any fsspec URI: a file, a folder or a glob.
        source_version: anything that changes when the source does; part of the cache key.
        columns: how the source is written and where each field comes from (docs/your-data.md).
        workload: name of the workload that the run is of; empty for MILLRACE_WORKLOAD's.
        variant: the document of that workload where it is a variant: its base, and columns of its own.
        as_of: the instant the run speaks from, ISO 8601; empty for the start of the last day.
        train_days: length of the training window, days; 0: 28, or what fits the data.
        champion: artifact id of the model that serves now; empty for none.
        validate_overrides: limits of components/validate/validate.yaml to change.
        train_overrides: hyper-parameters of the workload's train.yaml to change.
        evaluate_overrides: limits of the workload's evaluate.yaml to change.
        profile: kind of data, whose limits the workload has in profiles/<profile>.yaml; empty: any data.
        accept: rule of a gate to why the run may go on without it, for the model card and the audit.
    """
    return compose(
        source=source,
        source_version=source_version,
        columns=columns,
        workload=workload,
        variant=variant,
        as_of=as_of,
        train_days=train_days,
        champion=champion,
        validate_overrides=validate_overrides,
        train_overrides=train_overrides,
        evaluate_overrides=evaluate_overrides,
        profile=profile,
        accept=accept,
    )
