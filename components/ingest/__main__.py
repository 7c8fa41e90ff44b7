"""`python -m components.ingest SOURCE`: make a snapshot and say what is in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from components.ingest.refused import examples
from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.reading import options
from millrace.reading.document import ColumnsDocument
from millrace.settings import settings
from millrace.uris import redacted
from millrace.workload import Schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints snapshot id, rows, days and what was rejected; 2 on an error, which goes to stderr."""
    parsed = _parser().parse_args(arguments)
    try:
        here = settings(parsed.workload)
        config = IngestConfig(
            workload=here.workload,
            pseudonym_key=here.pseudonym_secret(),
            columns=options.document_from(parsed),
            memory_limit_gb=here.memory_limit_gb,
            threads=here.threads,
        )
        _print(ingest(parsed.source, here.lake, config), here.lake, load(here.workload).schema, config.columns)
    except (MillraceError, OSError) as error:
        print(f"error: {redacted(str(error))}", file=sys.stderr)
        return 2
    return 0


def _print(manifest: Manifest, lake: Path, schema: Schema, columns: ColumnsDocument) -> None:
    facts = manifest.facts
    console = Console()
    console.print(f"snapshot {manifest.id}", highlight=False)
    days = f"{len(facts['tables']['events'])} days, {facts['first_day']} to {facts['last_day']}"
    console.print(f"{facts['rows']:,} rows of {days}", highlight=False)

    if facts["quarantined"]:
        table = Table("rejected because", "rows", "for example")
        shown = {one.reason: str(one) for one in examples(lake / "quarantine" / manifest.id, schema, columns)}
        for reason, rows in sorted(facts["quarantined"].items(), key=lambda one: -one[1]):
            table.add_row(reason, f"{rows:,}", shown.get(reason, ""))
        console.print(table)
        print(f"rejected rows: {lake.absolute() / 'quarantine' / manifest.id}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.ingest", description=__doc__)
    parser.add_argument("source", help="a file, a folder or a glob, local or any fsspec URI; or a database's table")
    parser.add_argument("--workload", default="", help="whose events they are (default: MILLRACE_WORKLOAD)")
    options.add_to(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
