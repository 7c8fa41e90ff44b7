"""The world of the demo: the published recipe in its published size (`simulator`), half a year of it."""

from __future__ import annotations

from pathlib import Path

from fraud.simulator import SimulationConfig, write


def simulate(below: Path) -> Path:
    """A file per day; days that are there already are kept."""
    config = SimulationConfig()
    folder = below / f"simulated-{config.customers}x{config.terminals}x{config.days}"
    write(config, folder)
    return folder
