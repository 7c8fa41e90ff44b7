"""Score days of raw events with the served model, here: `make score DATA=uri [DAY=…]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from components.ingest.core import source_version
from millrace.errors import MillraceError
from millrace.settings import Settings, settings
from pipelines.batch_scoring import batch_scoring
from run.local import run_local
from run.source import IngestOptions, absolute


def main(argv: Sequence[str] | None = None) -> int:
    """Run it here and say where the scores are; 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m run.score", description=__doc__)
    parser.add_argument("--data", required=True, help="CSV or Parquet: file, folder, glob or fsspec URI")
    parser.add_argument("--day", default="", help="the one day to score (default: every day of the data)")
    parser.add_argument("--from", dest="first_day", default="", help="first day to score")
    parser.add_argument("--to", dest="last_day", default="", help="last day to score")
    parser.add_argument("--model-version", default="", help="of the registry (default: the champion)")
    IngestOptions.add_to(parser)
    options = parser.parse_args(argv)
    try:
        _run(settings(options.workload), options)
    except MillraceError as error:
        print(f"\nscore: {error}", file=sys.stderr)
        return 1
    return 0


def _run(here: Settings, options: argparse.Namespace) -> None:
    ingest_options, source = IngestOptions.of(options), absolute(options.data)
    arguments = {
        "source": source,
        "source_version": source_version(source),
        "column_map": ingest_options.column_map,
        "timezone": ingest_options.timezone,
        "workload": here.workload,
        "model_version": options.model_version,
        "first_day": options.day or options.first_day,
        "last_day": options.day or options.last_day,
    }
    scores = run_local(batch_scoring, arguments, here).outputs["scores"]
    facts = scores.facts
    rate = facts["computed_rows"] / facts["seconds"] if facts["seconds"] else 0
    print(
        f"\n{facts['rows']:,} events of {facts['first_day']} … {facts['last_day']}, scored by version "
        f"{facts['model_version']}; {facts['computed_rows']:,} of them were new when this was made, {rate:,.0f} rows/s"
    )
    for path in scores.table("scores"):
        print(f"  {path.resolve()}")


if __name__ == "__main__":
    sys.exit(main())
