"""Watch the served model, once: scheduled on a cluster, `make monitor` here (`run.monitor`).

Composition only: what is measured is in components/monitor.
"""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset

from components.monitor.component import announce, monitor
from pipelines.cluster import on_cluster


class Outputs(NamedTuple):
    """The manifest of what was made, for those who look at a run from outside."""

    outcomes: Dataset


@dsl.pipeline(name="millrace-monitoring", description="How the served model does, and an alarm where it decays.")
def monitoring(
    as_of: str = "",
    workload: str = "",
    monitor_overrides: dict = {},  # noqa: B006  kfp reads the signature
) -> Outputs:
    """Judge the served model; tell the retraining trigger.

    Args:
        as_of: what was known then counts, ISO 8601; empty for now.
        workload: name of the workload whose model is watched; empty for MILLRACE_WORKLOAD's.
        monitor_overrides: limits of components/monitor/monitor.yaml to change.
    """
    monitored = monitor(as_of=as_of, workload=workload, overrides=monitor_overrides)
    monitored.set_caching_options(False)  # the log grows while the arguments stay
    outcomes = monitored.outputs["outcomes"]
    announced = announce(outcomes=outcomes)
    announced.set_caching_options(False)  # tells others
    on_cluster(monitored, announced)
    return Outputs(outcomes=outcomes)
