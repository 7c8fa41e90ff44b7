"""Train a challenger, and let it in only if it beats the champion: the steps of training, with one gate more.

`run.retrain` runs one on this machine; when to retrain is `serving/retraining_trigger`'s business.
"""

from kfp import dsl

from pipelines.training import Outputs, compose


@dsl.pipeline(name="millrace-retraining", description="A challenger, promoted to a canary when it beats the champion.")
def retraining(
    source: str,
    champion: str,
    reason: str,
    source_version: str = "",
    columns: dict = {},  # noqa: B006  kfp reads defaults from the signature
    workload: str = "",
    as_of: str = "end",
    train_days: int = 0,
    canary_percent: int = 0,
    validate_overrides: dict = {},  # noqa: B006
    train_overrides: dict = {},  # noqa: B006
    evaluate_overrides: dict = {},  # noqa: B006
    profile: str = "",
    accept: dict = {},  # noqa: B006
) -> Outputs:
    """The training pipeline with a champion to beat.

    Args:
        source: CSV or Parquet behind any fsspec URI: a file, a folder or a glob.
        champion: artifact id of the model that serves now.
        reason: why, for the audit log.
        source_version: anything that changes when the source does; part of the cache key.
        columns: how the source is written and where each field comes from (docs/your-data.md).
        workload: name of the workload that the run is of; empty for MILLRACE_WORKLOAD's.
        as_of: the instant the run speaks from, ISO 8601; the end of the last day, which has been served already.
        train_days: length of the training window, days; 0: 28, or what fits the data.
        canary_percent: traffic that a promoted challenger gets at once; 0: what MILLRACE_CANARY_PERCENT says.
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
        as_of=as_of,
        train_days=train_days,
        champion=champion,
        validate_overrides=validate_overrides,
        train_overrides=train_overrides,
        evaluate_overrides=evaluate_overrides,
        profile=profile,
        accept=accept,
        challenge=reason,
        canary_percent=canary_percent,
    )
