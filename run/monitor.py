"""Judge the served model on the labels that have arrived, on this machine: `make monitor` (`python -m run.monitor`)."""

import argparse
import sys
from collections.abc import Sequence

from components.monitor.core import NEWEST
from millrace.errors import MillraceError
from millrace.judge.gates import Verdict
from millrace.report.index import link
from millrace.settings import Settings, settings
from pipelines.monitoring import monitoring
from run.local import run_local
from run.source import add_workload


def main(argv: Sequence[str] | None = None) -> int:
    """Run it here; 0 when all is well, 3 for an alarm, 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m run.monitor", description=__doc__)
    parser.add_argument("--as-of", default="", help="what was known then counts, ISO 8601 (default: now)")
    add_workload(parser)
    options = parser.parse_args(argv)
    try:
        return _run(settings(options.workload), options.as_of)
    except MillraceError as error:
        print(f"\nmonitor: {error}", file=sys.stderr)
        return 1


def _run(here: Settings, as_of: str) -> int:
    done = run_local(monitoring, {"as_of": as_of, "workload": here.workload}, here)
    report = done.outputs["outcomes"]
    index = link(here.reports, NEWEST)
    print(Verdict.read(report.path("verdict.json")).summary())
    print(f"Report: {index.with_name(NEWEST)}")
    return 0 if report.facts["passed"] else 3


if __name__ == "__main__":
    sys.exit(main())
