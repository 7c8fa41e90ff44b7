"""Watch the served model, once: scheduled on a cluster, `make monitor` here (`python -m pipelines.monitoring`).

Composition only: what is measured is in components/monitor.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset

from components.monitor.component import announce, monitor
from millrace.errors import MillraceError
from millrace.settings import Settings, settings
from pipelines.cluster import on_cluster


class Outputs(NamedTuple):
    """The manifest of what was made, for those who look at a run from outside."""

    outcomes: Dataset


@dsl.pipeline(name="fraud-monitoring", description="How the served fraud detector does, and an alarm where it decays.")
def monitoring(as_of: str = "", monitor_overrides: dict = {}) -> Outputs:  # noqa: B006  kfp reads the signature
    """Judge the served model; tell the retraining trigger.

    Args:
        as_of: what was known then counts, ISO 8601; empty for now.
        monitor_overrides: limits of components/monitor/monitor.yaml to change.
    """
    monitored = monitor(as_of=as_of, overrides=monitor_overrides)
    monitored.set_caching_options(False)  # the log grows while the arguments stay
    outcomes = monitored.outputs["outcomes"]
    announced = announce(outcomes=outcomes)
    announced.set_caching_options(False)  # tells others
    on_cluster(monitored, announced)
    return Outputs(outcomes=outcomes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it here; 0 when all is well, 3 for an alarm, 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.monitoring", description=__doc__)
    parser.add_argument("--as-of", default="", help="what was known then counts, ISO 8601 (default: now)")
    options = parser.parse_args(argv)
    try:
        return _run(settings(), options.as_of)
    except MillraceError as error:
        print(f"\nmonitor: {error}", file=sys.stderr)
        return 1


def _run(here: Settings, as_of: str) -> int:
    from millrace.gates import Verdict
    from millrace.report_index import link
    from pipelines.local import run_local

    done = run_local(lambda: monitoring, {"as_of": as_of}, here)
    report = done.outputs["outcomes"]
    index = link(here.home, "outcomes.html")
    print(Verdict.read(report.path("verdict.json")).summary())
    print(f"Report: {index.with_name('outcomes.html')}")
    return 0 if report.facts["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
