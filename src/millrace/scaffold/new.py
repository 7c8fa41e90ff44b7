"""`millrace new NAME --data FILE`: look at the table, ask what is unsure, write the package, install it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from millrace.errors import InvalidInput, Unavailable
from millrace.installed import names
from millrace.scaffold.guess import Guess, columns_of, guess
from millrace.scaffold.render import write_package


def new(options: argparse.Namespace, console: Console, ask: Callable[[str], str] | None = None) -> Path:
    """The folder of the package; raises InvalidInput with what is to be settled where nobody can be asked."""
    if options.name in names():
        raise InvalidInput(f"there is a workload {options.name!r} already; installed are {', '.join(names())}")
    if options.delay_days < 0:
        raise InvalidInput(f"--delay-days is {options.delay_days}; wanted 0 or more")

    found = settled(options, ask)
    show(found, console)
    folder = write_package(found, options.name, options.data, options.into or Path(options.name), options.delay_days)
    if not options.no_install:
        install(folder)
    return folder


def settled(options: argparse.Namespace, ask: Callable[[str], str] | None) -> Guess:
    """The guess with every question answered, by options or by somebody."""
    given: dict[str, Any] = {"time": options.time, "label": options.label, "id": options.id, "task": options.task}
    given |= {"keys": tuple(options.key), "ignore": tuple(options.ignore)}
    columns = columns_of(options.data)
    found, questions = guess(columns, given)
    if ask is not None and questions:
        for question in questions:
            given[question.split()[0].removeprefix("--")] = ask(f"{question}. Which one? ").strip()
        found, questions = guess(columns, given)

    if questions:
        listed = "\n".join(f"  {question}" for question in questions)
        raise InvalidInput(f"{options.data} leaves {len(questions)} to settle; say it and run again:\n{listed}")
    return found


def show(found: Guess, console: Console) -> None:
    """What each column was taken for."""
    roles = {found.time: "time", found.label: f"label ({found.task})", found.id: "id"}
    roles |= dict.fromkeys(found.keys, "key") | dict.fromkeys(found.numbers, "number")
    roles |= dict.fromkeys(found.categories, "category") | dict.fromkeys(found.left_out, "left out")
    table = Table("column", "taken for", "type", "different", "empty", "from", "to")
    for name, column in found.columns.items():
        seen = (str(column.distinct), str(column.nulls), str(column.low), str(column.high))
        table.add_row(name, roles.get(name, "left out"), column.type, *seen)
    console.print(table)


def install(folder: Path) -> None:
    """Install it where this runs, so that the platform finds it; raises Unavailable when that fails."""
    uv = Path(sys.executable).with_name("uv")
    program: Sequence[str] = (
        [str(uv), "pip", "install", "-q", "-p", sys.executable]
        if uv.is_file()
        else ([sys.executable, "-m", "pip", "install", "-q"])
    )

    done = subprocess.run([*program, "--no-deps", "-e", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(
            f"{folder} is written and could not be installed: {(done.stderr or done.stdout).strip()[-500:]}\n"
            f"Install it yourself: pip install --no-deps -e {folder}"
        )
