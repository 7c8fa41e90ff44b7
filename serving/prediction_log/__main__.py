"""The prediction log's commands: `python -m serving.prediction_log migrate | labels FILE`."""

from __future__ import annotations

import argparse
import sys

from millrace.errors import MillraceError
from millrace.events.log import engine, migrate
from millrace.settings import settings
from serving.prediction_log.labels import load


def main() -> int:
    """Run one command; a MillraceError becomes one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m serving.prediction_log", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("migrate", help="make the tables, or bring them to this version's schema")
    labels = commands.add_parser("labels", help="load labels: CSV or Parquet, any fsspec URI")
    labels.add_argument("file", metavar="FILE", help="with the event's id, its label and optionally label_timestamp")
    labels.add_argument("--workload", help="whose events they are of (default: MILLRACE_WORKLOAD)")
    options = parser.parse_args()
    try:
        here = settings()
        log = engine(here)
        migrate(log)
        if options.command == "labels":
            read, new = load(options.file, log, options.workload or here.workload)
            print(f"{read} labels read, {new} of them new")
    except MillraceError as error:
        print(f"prediction_log: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
