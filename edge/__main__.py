"""`python -m edge [--out FOLDER] [--version N]`, which is `make edge`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.package import STATE, EdgeOptions, Limit, build, champion, states
from millrace.errors import MillraceError
from millrace.installed import load
from millrace.registry.model_spec import generation_of
from millrace.settings import settings


def main(argv: Sequence[str] | None = None) -> int:
    """Build the package and say what is in it; 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m edge", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to make (default: <home>/edge/<version>-<online store>)")
    parser.add_argument("--version", type=int, help="model version (default: the champion)")
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="VIEW=COUNT[:FIELD]",
        help="carry so many states of a view only: the latest, or those with the largest FIELD (default all)",
    )
    parser.add_argument("--full", action="store_true", help="the served graph, not a smaller one that keeps its metric")
    parser.add_argument("--workload", default="", help="whose model (default: MILLRACE_WORKLOAD)")
    options = parser.parse_args(argv)
    try:
        here = settings(options.workload)
        limits = dict(Limit.parse(text) for text in options.limit)
        model, version = champion(here, options.version)
        online = states(here, model.workload, generation_of(model))
        out = options.out or here.home / "edge" / f"{version}-{online.id}"
        made = build(model, version, online, out, EdgeOptions(limits=limits, full=options.full))
    except MillraceError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 1
    sizes = {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    without = sum(sizes.values()) - sizes[out / STATE]
    carried = ", ".join(f"{count:,} of {view}" for view, count in made["states"].items())
    print(
        f"{out}: model version {version}, {made['precision']} ({made['graph']}), {without:,} bytes and "
        f"{sizes[out / STATE]:,} of states ({carried}, as of {made['states_as_of']})\n"
        f"Score with: python {out}/score.py {load(model.workload).event[1]}.json"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
