"""Machines are the units; an hour off is an hour off."""

from typing import Final

from millrace.judge.rows import Columns

UNIT: Final = "machine"
UNIT_NOUN: Final = ("machine", "machines")
COLUMNS: Final = Columns(unit="machine", label="hours")
LOG_COLUMNS: Final = COLUMNS
