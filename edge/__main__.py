"""`python -m edge [--out FOLDER] [--version N]`, which is `make edge`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.package import STATE, EdgeLimits, build, champion, states
from millrace.errors import MillraceError
from millrace.settings import settings


def main(argv: Sequence[str] | None = None) -> int:
    """Build the package and say what is in it; 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m edge", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder to make (default: <home>/edge/<version>-<online store>)")
    parser.add_argument("--version", type=int, help="model version (default: the champion)")
    parser.add_argument(
        "--customers", type=int, default=0, help="most recently active customers to carry (default all)"
    )
    parser.add_argument("--terminals", type=int, default=0, help="busiest terminals to carry (default all)")
    parser.add_argument("--full", action="store_true", help="the served graph, not a smaller one that keeps its metric")
    options = parser.parse_args(argv)
    try:
        here = settings()
        limits = EdgeLimits(customers=options.customers, terminals=options.terminals, full=options.full)
        model, version = champion(here, options.version)
        online = states(here)
        out = options.out or here.home / "edge" / f"{version}-{online.id}"
        made = build(model, version, online, out, limits)
    except MillraceError as error:
        print(f"edge: {error}", file=sys.stderr)
        return 1
    sizes = {path: path.stat().st_size for path in out.rglob("*") if path.is_file()}
    without = sum(sizes.values()) - sizes[out / STATE]
    print(
        f"{out}: model version {version}, {made['precision']} ({made['graph']}), {without:,} bytes and "
        f"{sizes[out / STATE]:,} of states ({made['customers']:,} customers, {made['terminals']:,} terminals, "
        f"as of {made['states_as_of']})\nScore with: python {out}/score.py transactions.json --key FILE"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
