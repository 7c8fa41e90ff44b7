"""`python -m components.materialize FEATURE_SET`: fill the online store as of an instant.

An instant and a feature set that someone names; what a schedule runs is `refresh.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from components.materialize.core import materialize
from millrace.artifacts import Manifest
from millrace.errors import MillraceError
from millrace.horizon import resolve_as_of
from millrace.settings import settings


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the store holds the states of that instant; 2 on an error, which goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m components.materialize", description=__doc__)
    parser.add_argument("feature_set", type=Path, help="folder of a feature set: lake/feature_sets/ID")
    parser.add_argument("--as-of", default="", help="ISO 8601 instant (default: the start of the last day)")
    parsed = parser.parse_args(arguments)
    try:
        here = settings()
        source = Manifest.read(parsed.feature_set, "feature_set")
        made = materialize(
            source,
            here.lake,
            here.home,
            resolve_as_of(source, parsed.as_of),
            serving=here.feature_store,
            threads=here.threads,
            memory_limit_gb=here.memory_limit_gb,
        )
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = made.facts
    print(f"online store as of {facts['as_of']}: {facts['customers']} customers, {facts['terminals']} terminals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
