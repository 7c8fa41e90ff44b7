"""Days of raw events, scored by the served model, on a cluster; a file on this machine: `millrace score`.

Composition only: ingest, the data gate and features are those of training; how days are scored is in components/score.
"""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset

from components.build_features.component import build_features
from components.gate.component import gate_data
from components.ingest.component import ingest
from components.score.component import score
from components.validate.component import validate
from pipelines.cluster import on_cluster


class Outputs(NamedTuple):
    """The manifest of every artifact, for those who look at a run from outside."""

    snapshot: Dataset
    feature_set: Dataset
    scores: Dataset


@dsl.pipeline(name="millrace-batch-scoring", description="Days of raw events, scored by the served model.")
def batch_scoring(
    source: str,
    source_version: str = "",
    columns: dict = {},  # noqa: B006  kfp reads defaults from the signature
    workload: str = "",
    model_version: str = "",
    first_day: str = "",
    last_day: str = "",
    validate_overrides: dict = {},  # noqa: B006
    profile: str = "",
) -> Outputs:
    """Ingest, validate, build features, score; what is there already is not made again.

    Args:
        source: CSV or Parquet behind any fsspec URI; with the days before the scored ones, whose histories they are.
        source_version: anything that changes when the source does; part of the cache key.
        columns: how the source is written and where each field comes from (docs/your-data.md).
        workload: name of the workload that the run is of; empty for MILLRACE_WORKLOAD's.
        model_version: of the registry; empty for the champion.
        first_day: first day to score, ISO; empty for the first there is.
        last_day: last day to score, ISO; empty for the last there is.
        validate_overrides: limits of components/validate/validate.yaml to change.
        profile: kind of data, whose limits the workload has in profiles/<profile>.yaml; empty: any data.
    """
    ingested = ingest(source=source, source_version=source_version, columns=columns, workload=workload)
    snapshot = ingested.outputs["snapshot"]
    validated = validate(snapshot=snapshot, overrides=validate_overrides, profile=profile, for_training=False)
    passed = gate_data(validation=validated.outputs["validation"], run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    passed.set_caching_options(False)  # what it leaves is of this run
    built = build_features(snapshot=snapshot).after(passed)
    feature_set = built.outputs["feature_set"]
    scored = score(feature_set=feature_set, model_version=model_version, first_day=first_day, last_day=last_day)
    scored.set_caching_options(False)  # who is champion is not among its arguments; it finds its own results
    on_cluster(ingested, validated, passed, built, scored)
    return Outputs(snapshot=snapshot, feature_set=feature_set, scores=scored.outputs["scores"])
