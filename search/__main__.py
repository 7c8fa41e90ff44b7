"""`python -m search --minutes N [--data URI]`, which is `make search`.

With data, the rows are those that the training pipeline would train on; without, those of the lake's newest training
set. Test rows are never read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from millrace.errors import InvalidInput, MillraceError, NotFound
from millrace.installed import load
from millrace.lake.manifest import Manifest, list_manifests
from millrace.settings import Settings, settings
from run.loop import overrides as read_overrides
from run.source import IngestOptions
from search.space import read_space
from search.study import Found, search


def rows_to_train_on(options: argparse.Namespace, here: Settings) -> Manifest:
    """The training set of `--training-set`, of `--data`, or the newest of the lake; raises NotFound."""
    if options.training_set:
        return Manifest.read(options.training_set, "training_set")
    if options.data:
        from components.assemble.core import assemble, split_of
        from components.build_features.core import build_features
        from components.ingest.core import ingest

        limits = {"threads": here.threads, "memory_limit_gb": here.memory_limit_gb}
        snapshot = ingest(options.data, here.lake, IngestOptions.of(options).config(here))
        features = build_features(snapshot, here.lake, history_length=here.history_length, **limits)
        spec = split_of(features, options.as_of, train_days=options.train_days)
        return assemble(features, here.lake, spec, **limits)
    found = list(list_manifests(here.lake / "training_sets", "training_set"))
    if not found:
        raise NotFound(f"no training set in {here.lake}. Name the data, make search DATA=uri MINUTES=n, or: make run")
    return found[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Search, say what was found and how to use it; 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m search", description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="budget, minutes; past it the running epoch ends")
    parser.add_argument("--trials", type=int, default=0, help="at most so many in this session (default: no limit)")
    parser.add_argument("--data", default="", help="CSV or Parquet: file, folder, glob or fsspec URI")
    parser.add_argument("--training-set", type=Path, help="folder of a training set, instead of data")
    parser.add_argument("--as-of", default="", help="instant the rows speak from (default: start of the last day)")
    parser.add_argument("--train-days", type=int, default=28, help="training window, days (default 28)")
    parser.add_argument("--space", type=Path, help="YAML of what to try (default: the workload's search.yaml)")
    parser.add_argument("--overrides", type=Path, help="YAML as run.loop takes it; its train part is the start")
    IngestOptions.add_to(parser)
    options = parser.parse_args(argv)
    try:
        if not options.minutes > 0:
            raise InvalidInput(f"minutes is {options.minutes}; wanted more than 0: make search MINUTES=30")
        here = settings(options.workload)
        base = read_overrides(options.overrides).get("train_overrides", {})
        rows = rows_to_train_on(options, here)
        space = read_space(load(rows.workload), options.space, base)
        limits = {"minutes": options.minutes, "trials": options.trials}
        found = search(rows, space, here, base=base, **limits)
    except MillraceError as error:
        print(f"search: {error}", file=sys.stderr)
        return 1
    print(_told(found))
    return 0


def _told(found: Found) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found.trials.items()))
    if found.best is None:
        return f"search {found.study}: {counts}; none complete yet. Search again to go on."
    start = "" if found.baseline is None else f" (at the start {found.baseline:.4f})"
    return (
        f"search {found.study}: {counts}; {found.watched.name} {found.value:.4f} on the validation rows{start}\n"
        f'Train with the best: make run ARGS="--overrides {found.best}"\nThe same command goes on searching.'
    )


if __name__ == "__main__":
    sys.exit(main())
