"""What `millrace new` takes on a command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

DELAY_DAYS: Final = 1
TASKS: Final = ("classification", "regression")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", metavar="NAME", help="of the workload, such as churn")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="a CSV or Parquet table")
    parser.add_argument("--time", metavar="COLUMN", help="when the event happened")
    parser.add_argument("--label", metavar="COLUMN", help="what is predicted")
    parser.add_argument("--task", choices=TASKS, help="default: classification for two values, else regression")
    parser.add_argument("--id", metavar="COLUMN", help="whole number that no other row has; default: made of the row")
    parser.add_argument(
        "--key", action="append", default=[], metavar="COLUMN", help="whose past counts; may be repeated"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="COLUMN", help="leave it out; may be repeated")
    parser.add_argument(
        "--delay-days",
        type=int,
        default=DELAY_DAYS,
        help=f"from an event until its label is known (default {DELAY_DAYS})",
    )
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="where to write it (default: ./NAME)")
    parser.add_argument("--no-install", action="store_true", help="write only")
