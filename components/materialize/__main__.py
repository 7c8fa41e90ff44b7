"""`python -m components.materialize FEATURE_SET`: fill a generation of the online store as of an instant.

An instant and a feature set that someone names; what a schedule runs is `refresh.py`. Without `--generation` it is one
aside, which no model version reads. With `--follow` it goes on: for each instant that a line of standard input names it
brings the generation there and answers with a line, so that Feast is imported once. An instant after the one that the
generation was filled as of renews refreshed views; an earlier one fills it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

from components.materialize.core import described, materialize
from components.materialize.renewal import renew, renewable
from components.materialize.store import Aside
from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.feast_home import repository
from millrace.lake.horizon import resolve_as_of
from millrace.lake.manifest import Manifest
from millrace.registry.generations import generations_in_use
from millrace.registry.model_spec import GENERATION
from millrace.settings import Settings, settings


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the store holds the states of that instant; 2 on an error, which goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m components.materialize", description=__doc__)
    parser.add_argument("feature_set", type=Path, help="folder of a feature set: lake/feature_sets/ID")
    parser.add_argument("--as-of", default="", help="ISO 8601 instant (default: the start of the last day)")
    parser.add_argument("--generation", default="", help="fill this one, whoever reads it (default: one aside)")
    parser.add_argument("--follow", action="store_true", help="then to each instant of standard input, one a line")
    parsed = parser.parse_args(arguments)

    try:
        source = Manifest.read(parsed.feature_set, "feature_set")
        here = settings(source.workload)
        if parsed.follow:
            return _follow(source, here, parsed.generation)
        _, said = _fill(source, here, resolve_as_of(source, parsed.as_of), parsed.generation)
        print(said)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _fill(
    source: Manifest, here: Settings, as_of: datetime, generation: str, aside: Aside | None = None
) -> tuple[str, str]:
    """The generation that was filled, and a line about it."""
    made = materialize(
        source,
        here.lake,
        here.home,
        as_of,
        generation=generation,
        in_use=generations_in_use(here),
        serving=here.feature_store,
        aside=aside,
        threads=here.threads,
        memory_limit_gb=here.memory_limit_gb,
    )
    name = str(made.facts[GENERATION])
    return name, f"generation {name} of the online store as of {made.facts['as_of']}: {described(made)}"


def _follow(source: Manifest, here: Settings, generation: str) -> int:
    with closing(Aside(load(source.workload))) as aside:
        for line in sys.stdin:
            as_of = resolve_as_of(source, line.strip())
            repo = repository(here.home, source.workload, generation)
            if generation and renewable(source, here.lake, repo, as_of):
                count = renew(source, here.lake, repo, as_of, serving=here.feature_store, aside=aside)
                print(f"generation {generation} as of {as_of.isoformat()}: {count} states changed", flush=True)
            else:
                generation, said = _fill(source, here, as_of, generation, aside)
                print(said, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
