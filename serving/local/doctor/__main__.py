"""Check a home and its machine, and say what is wrong with the command that mends it: `millrace doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from millrace.errors import MillraceError
from millrace.lake.moved import settle
from millrace.printing import accept_any_text
from millrace.settings import Settings, settings
from serving.local.doctor import home, machine
from serving.local.doctor.findings import Finding
from serving.local.records import Record
from serving.local.state import Place

Check = Callable[[Settings], Iterator[Finding]]
CHECKS: Final[Sequence[Check]] = (
    machine.python,
    machine.environment,
    machine.drift_environment,
    machine.envoy,
    machine.text,
    machine.disk,
    machine.memory,
    machine.ports,
    home.permissions,
    home.place,
    home.clock,
    home.served_models,
    home.registry,
    home.databases,
    home.audit,
    home.online_stores,
    home.processes,
)


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing is wrong; 1: something is; 2: wrong settings."""
    accept_any_text()
    parser = argparse.ArgumentParser(prog="millrace doctor", description=__doc__)
    parser.add_argument("--home", type=Path, help="the home to check (default: MILLRACE_HOME)")
    parser.add_argument("--workload", default="", help="whose settings (default: MILLRACE_WORKLOAD)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--fix", action="store_true", help="mend what heals safely: a moved home, records of the dead")
    options = parser.parse_args(argv)
    began = time.perf_counter()

    try:
        here = settings(options.workload)
        if options.home is not None:
            here = here.model_copy(update={"home": options.home.expanduser().absolute()})
        if options.fix:
            fix(here)
        found = examine(here)
    except MillraceError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    wrong = sum(finding.wrong for finding in found)
    if options.json:
        document = {"home": str(here.home), "wrong": wrong, "findings": [dataclasses.asdict(one) for one in found]}
        print(json.dumps(document, indent=2))
    else:
        for finding in found:
            print(finding)
        verdict = f"{len(found)} findings, {wrong} of them wrong" if found else "nothing is wrong"
        seconds = time.perf_counter() - began
        print(f"{here.home}: {len(CHECKS)} checks in {seconds:.1f} s, {verdict}")
    return 1 if wrong else 0


def examine(here: Settings) -> list[Finding]:
    """What every check finds; one that cannot be made is a finding itself."""
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(here)
        except (OSError, UnicodeError, MillraceError) as error:
            found.append(Finding(check.__name__, " ".join(str(error).split()).rstrip("."), "Mend that, then ask again"))
    return found


def fix(here: Settings) -> None:
    """Names of an old place, and records of processes that are gone where no runtime lives. Said in a line each."""
    settle(here.home)
    place = Place(here.home)
    if place.alive():
        return
    for path in sorted(place.running.glob("*.json")):
        record = Record.read(path)
        if record is None or not record.runs():
            path.unlink(missing_ok=True)
            print(f"removed {path}: no such process runs", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
