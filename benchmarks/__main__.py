"""`python -m benchmarks [name …]`, which is `make bench`: every benchmark, or those named, one after another."""

from __future__ import annotations

import argparse
import subprocess
import sys

ALL = ("features", "training", "run")


def main() -> int:
    """Each in a process of its own, so that none inherits another's memory; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(ALL)} (default: all)")
    names = parser.parse_args().names or ALL
    if unknown := sorted(set(names) - set(ALL)):
        parser.error(f"no benchmark called {', '.join(unknown)}; there are {', '.join(ALL)}")
    failed = [name for name in names if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode]
    for name in failed:
        print(f"benchmark {name} failed, see above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
