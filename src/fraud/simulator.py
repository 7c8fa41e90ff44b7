"""A world of cards and terminals with three kinds of fraud: seeded raw events, one day at a time.

The recipe is the one published with the *Reproducible Machine Learning for Credit Card Fraud Detection* handbook.
Every day has its own random stream, so the first n days of a longer simulation are the simulation of n days, and a
folder grows by adding files. `planted.py` holds the drift and faults planted on request.
Run it: `python -m fraud.simulator --help`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.planted import SLIPS, Planted, deliver
from fraud.schema import EVENTS, LABEL_DELAY_DAYS
from millrace.errors import InvalidInput, MillraceError
from millrace.lake.atomic import replacing_file
from millrace.observe.progress import track

RAW_SCHEMA: Final = EVENTS.append(pa.field("fraud_scenario", pa.int8(), nullable=False))
"""What a day's table holds. `fraud_scenario`: 0 none, 1 amount, 2 terminal, 3 customer, 4 planted night bursts."""

PLANE: Final = 100.0
DAY_S: Final = 86_400
LARGE_AMOUNT_CENTS: Final = 220_00
TERMINALS_PER_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_PER_DAY, CUSTOMER_DAYS = 3, 14
NIGHT_VICTIMS_PER_DAY, NIGHT_DAYS, NIGHT_BURST = 5, 7, 6
_METADATA: Final = b"millrace.simulation"
# One random stream per purpose: changing how one is drawn leaves the others as they were.
_PROFILES, _PLACES, _EVENTS, _BAD_TERMINALS, _BAD_CUSTOMERS, _NIGHT = range(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """The published defaults: about 1.75 million transactions, 0.8 % of them fraud."""

    customers: int = 5_000
    terminals: int = 10_000
    days: int = 183
    radius: float = 5.0
    """A customer uses the terminals nearer than this on a plane of 100 × 100."""
    start: date = date(2018, 4, 1)
    seed: int = 0
    planted: Planted = field(default_factory=Planted)

    def __post_init__(self) -> None:
        for name in ("customers", "terminals", "days"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; wanted at least 1")
        if self.seed < 0:
            raise InvalidInput(f"seed is {self.seed}; wanted 0 or more")


@dataclass(frozen=True, slots=True)
class Day:
    """The events of one day, in time order; arrays of equal length."""

    second: NDArray[np.int64]
    customer: NDArray[np.int64]
    terminal: NDArray[np.int64]
    cents: NDArray[np.int64]
    scenario: NDArray[np.int8]

    def rows(self, chosen: NDArray[Any]) -> Day:
        """The rows at `chosen`: a mask or positions."""
        return Day(*(getattr(self, item.name)[chosen] for item in fields(self)))

    def followed_by(self, other: Day) -> Day:
        """Both days' rows in time order."""
        both = Day(*(np.concatenate([getattr(self, item.name), getattr(other, item.name)]) for item in fields(self)))
        return both.rows(np.argsort(both.second, kind="stable"))


class World:
    """Who spends how much, how often and where, and who is compromised when."""

    def __init__(self, config: SimulationConfig) -> None:
        rng = np.random.default_rng([config.seed, _PROFILES])
        self.config = config
        self.mean_amount = rng.uniform(5, 100, config.customers)
        self.daily_rate = rng.uniform(0, 4, config.customers)
        self.nearby, self.nearby_start = _terminals_nearby(config)
        self.bad_terminals = _draws(config, _BAD_TERMINALS, config.terminals, TERMINALS_PER_DAY)
        self.bad_customers = _draws(config, _BAD_CUSTOMERS, config.customers, CUSTOMERS_PER_DAY)
        self.night_victims = _draws(config, _NIGHT, config.customers, NIGHT_VICTIMS_PER_DAY)

    def day(self, day: int) -> Day:
        """All events of `day`, labelled; a later fraud label overwrites an earlier one."""
        rng = np.random.default_rng([self.config.seed, _EVENTS, day])
        events = self._genuine(rng, day)
        events.scenario[events.cents > LARGE_AMOUNT_CENTS] = 1
        events.scenario[np.isin(events.terminal, _active(self.bad_terminals, day, TERMINAL_DAYS))] = 2
        self._compromise_customers(rng, day, events)
        if day >= self.config.planted.night_fraud_from_day:
            events = events.followed_by(self._night_bursts(day))
        return events

    def _genuine(self, rng: np.random.Generator, day: int) -> Day:
        customer = np.repeat(np.arange(self.config.customers), rng.poisson(self.daily_rate))
        second = rng.normal(DAY_S / 2, 20_000, len(customer)).astype(np.int64)
        mean = self.mean_amount[customer]
        amount = rng.normal(mean, mean / 2)
        amount = np.where(amount < 0, rng.uniform(0, 2 * mean), amount) * self.config.planted.inflation(day)

        count = np.diff(self.nearby_start)[customer]
        pick = self.nearby_start[customer] + (rng.random(len(customer)) * count).astype(np.int64)
        possible = np.flatnonzero((second > 0) & (second < DAY_S) & (count > 0))
        possible = possible[np.argsort(second[possible], kind="stable")]

        return Day(
            second[possible],
            customer[possible],
            self.nearby[pick[possible]],
            np.rint(amount[possible] * 100).astype(np.int64),
            np.zeros(len(possible), np.int8),
        )

    def _compromise_customers(self, rng: np.random.Generator, day: int, events: Day) -> None:
        """A third of a compromised customer's transactions are five times as large; twice compromised, twice drawn."""
        campaigns = np.bincount(_active(self.bad_customers, day, CUSTOMER_DAYS), minlength=self.config.customers)
        hits = rng.binomial(campaigns[events.customer], 1 / 3)
        events.cents[:] = events.cents * 5**hits
        events.scenario[hits > 0] = 3

    def _night_bursts(self, day: int) -> Day:
        """Small payments within one hour of the night, on terminals anywhere: no published pattern looks like it."""
        rng = np.random.default_rng([self.config.seed, _NIGHT, day, 1])
        recent = range(max(day - NIGHT_DAYS + 1, self.config.planted.night_fraud_from_day), day + 1)
        victim = np.repeat(self.night_victims[recent].ravel(), NIGHT_BURST)
        hour_start = np.repeat(rng.integers(3_600, 4 * 3_600, len(victim) // NIGHT_BURST), NIGHT_BURST)
        second = hour_start + rng.integers(0, 3_600, len(victim))
        order = np.argsort(second, kind="stable")

        return Day(
            second[order],
            victim[order],
            rng.integers(0, self.config.terminals, len(victim)),
            rng.integers(50, 1_000, len(victim)),
            np.full(len(victim), 4, np.int8),
        )


def simulate(config: SimulationConfig) -> Iterator[pa.Table]:
    """One table per day, oldest first, with RAW_SCHEMA unless a slip is planted; memory is that of one day."""
    return deliver(_days(config), config.planted, config.seed)


def write(config: SimulationConfig, folder: Path) -> list[Path]:
    """One `YYYY-MM-DD.parquet` per day in `folder`; days that are there stay, so a longer run adds its new days.

    Raises InvalidInput when the folder holds another simulation, or Parquet that is none.
    """
    identity = _identity(config)
    _refuse_foreign(folder, identity)
    paths = [folder / f"{config.start + timedelta(days=day)}.parquet" for day in range(config.days)]

    if all(path.exists() for path in paths):
        return paths

    for path, table in zip(paths, track(simulate(config), "simulate", total=config.days), strict=True):
        if not path.exists():
            with replacing_file(path) as aside:
                pq.write_table(table.replace_schema_metadata({_METADATA: identity}), aside)
    return paths


def _days(config: SimulationConfig) -> Iterator[pa.Table]:
    world = World(config)
    customers = pa.array([str(index) for index in range(config.customers)])
    terminals = pa.array([str(index) for index in range(config.terminals)])
    first_id = 0

    for day in range(config.days):
        events = world.day(day)
        ids = first_id + np.arange(len(events.second))
        first_id += len(ids)
        delivered = events.terminal >= config.planted.silent(day, config.terminals)
        midnight_s = (config.start - date(1970, 1, 1)).days * DAY_S + day * DAY_S
        yield _table(events.rows(delivered), ids[delivered], midnight_s, customers, terminals)


def _table(events: Day, ids: NDArray[np.int64], midnight_s: int, customers: pa.Array, terminals: pa.Array) -> pa.Table:
    event_us = (midnight_s + events.second) * 1_000_000
    return pa.table(
        [
            pa.array(ids),
            pa.array(event_us).cast(RAW_SCHEMA.field("event_timestamp").type),
            customers.take(pa.array(events.customer)),
            terminals.take(pa.array(events.terminal)),
            _decimal(events.cents),
            pa.array((events.scenario > 0).astype(np.int8)),
            pa.array(event_us + LABEL_DELAY_DAYS * DAY_S * 1_000_000).cast(RAW_SCHEMA.field("label_timestamp").type),
            pa.array(events.scenario),
        ],
        schema=RAW_SCHEMA,
    )


def _decimal(cents: NDArray[np.int64]) -> pa.Array:
    """Cents as decimal(12, 2), through Arrow's own layout: 16 little-endian bytes a value."""
    words = np.stack([cents, cents >> 63], axis=1)
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(np.ascontiguousarray(words))])


def _terminals_nearby(config: SimulationConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Terminals within the radius, customer after customer, and where each customer's begin: [.], [customers + 1].

    Both are walked in order of x, a few hundred customers against the strip of terminals that can be near them.
    """
    rng = np.random.default_rng([config.seed, _PLACES])
    customers = rng.uniform(0, PLANE, (config.customers, 2))
    terminals = rng.uniform(0, PLANE, (config.terminals, 2))
    by_x = np.argsort(terminals[:, 0])
    x = terminals[by_x, 0]
    who = []
    where = []

    for block in np.array_split(np.argsort(customers[:, 0]), -(-config.customers // 256)):
        low = np.searchsorted(x, customers[block[0], 0] - config.radius)
        high = np.searchsorted(x, customers[block[-1], 0] + config.radius, side="right")
        strip = by_x[low:high]
        away = customers[block, None, :] - terminals[None, strip, :]
        near_customer, near_terminal = np.nonzero((away**2).sum(axis=2) < config.radius**2)
        who.append(block[near_customer])
        where.append(strip[near_terminal])

    customer = np.concatenate(who)
    terminal = np.concatenate(where)
    counts = np.bincount(customer, minlength=config.customers)
    return terminal[np.lexsort((terminal, customer))], np.concatenate([[0], np.cumsum(counts)])


def _draws(config: SimulationConfig, stream: int, population: int, size: int) -> NDArray[np.int64]:
    """[days, size]: who is hit on each day, without repetition within the day."""
    size = min(size, population)
    draws = [
        np.random.default_rng([config.seed, stream, day]).choice(population, size, replace=False)
        for day in range(config.days)
    ]
    return np.stack(draws)


def _active(draws: NDArray[np.int64], day: int, days: int) -> NDArray[np.int64]:
    """Everyone drawn on one of the last `days` days, `day` included."""
    return draws[max(day - days + 1, 0) : day + 1].ravel()


def _identity(config: SimulationConfig) -> bytes:
    """Everything that decides what a day's file holds; the number of days does not."""
    document = asdict(config)
    del document["days"]
    return json.dumps(document, sort_keys=True, default=str).encode()


def _refuse_foreign(folder: Path, identity: bytes) -> None:
    for path in sorted(folder.glob("*.parquet"))[:1]:
        found = (pq.read_schema(path).metadata or {}).get(_METADATA, b"no simulation")
        if found != identity:
            raise InvalidInput(
                f"{folder} holds {found.decode()}; this one is {identity.decode()}. Name another folder, or empty it."
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints what it wrote."""
    parsed = vars(_parser().parse_args(arguments))
    folder = parsed.pop("out")

    try:
        planted = Planted(**{item.name: parsed.pop(item.name) for item in fields(Planted)})
        paths = write(SimulationConfig(planted=planted, **parsed), folder)
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    print(f"{rows:,} transactions of {len(paths)} days in {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fraud.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for one Parquet file per day")

    recipe = parser.add_argument_group("recipe")
    for name, kind in {"customers": int, "terminals": int, "days": int, "radius": float, "seed": int}.items():
        recipe.add_argument(f"--{name}", type=kind, default=_default(SimulationConfig, name), help="%(default)s")
    recipe.add_argument("--start", type=date.fromisoformat, default=date(2018, 4, 1), help="first day, %(default)s")

    plant = parser.add_argument_group("planted on request", "days count from the first day")
    for item in fields(Planted):
        option = "--" + item.name.replace("_", "-")
        default: Any = item.default
        choices = SLIPS if item.name == "slip" else None
        plant.add_argument(option, type=type(default), default=default, choices=choices, help="default %(default)s")
    return parser


def _default(config: type[SimulationConfig], name: str) -> Any:
    return next(item.default for item in fields(config) if item.name == name)


if __name__ == "__main__":
    sys.exit(main())
