"""Kill -9 of everything that runs, one kind after the other, while clients ask and are told: `make chaos`.

Against the running home (`make up`). Every acknowledged answer is audited: it must be in the prediction log, once,
under its entity, and its entity's recent events must hold it in time order; the registry's audit chain must be whole.
What is sent is kept as any traffic is, and canaries begin and are aborted: use a home that may be thrown away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.chaos.audit import judge
from benchmarks.chaos.load import Load
from benchmarks.chaos.report import Report, show
from benchmarks.chaos.rollout import Rollout
from benchmarks.chaos.victims import Victims
from benchmarks.chaos.work import Kills, Plan
from benchmarks.fuzz.client import Address
from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.atomic import write_text
from millrace.settings import Settings, settings
from serving.local.commands import require_running
from serving.local.state import Place


@dataclass(frozen=True)
class Clients:
    number: int
    rate: float
    entities: int
    timeout_s: float


def main(arguments: list[str] | None = None) -> int:
    """Kill, print, write; 1 unless nothing acknowledged was lost."""
    found = _parser().parse_args(arguments)
    here = settings(found.workload)
    seed = time.time_ns() % 2**32 if found.seed is None else found.seed
    print(f"seed {seed}", file=sys.stderr)
    clients = Clients(found.clients, found.rate, found.entities, found.timeout_s)
    plan = Plan(found.only, found.kills, found.minutes, tuple(found.apart), seed, found.alone)
    try:
        report = run(here, clients, plan, found.deadline_s)
    except MillraceError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    show(report, Console(width=None if sys.stdout.isatty() else 160))
    write_text(found.out or here.home / "bench" / "chaos.json", json.dumps(report.document(), indent=2) + "\n")
    return int(not report.whole)


def run(here: Settings, clients: Clients, plan: Plan, deadline_s: float) -> Report:
    """Carry the plan out, wait until everybody has caught up, compare. Raises Unavailable."""
    workload = load(here.workload)
    asking, kills = asyncio.run(_kill(here, clients, plan))
    found = judge(here, workload, asking.asked, deadline_s)
    return Report(plan.seed, asking.asked, kills.kills, kills.seconds, found, asking.wrong, asking.why)


async def _kill(here: Settings, clients: Clients, plan: Plan) -> tuple[Load, Kills]:
    place = Place(here.home.resolve())
    state = require_running(place)
    address = Address("127.0.0.1", state.gateway_port)
    asking = Load(
        load(here.workload),
        here.model_name,
        address,
        here.gateway_headers,
        plan.seed,
        clients.rate,
        clients.number,
        clients.entities,
        clients.timeout_s,
    )
    rollout = Rollout(here)
    victims = Victims(place, here.model_name, rollout)
    kinds = plan.kinds or victims.kinds()
    kills = Kills(replace(plan, kinds=kinds), asking, victims, rollout)
    async with asking, rollout:
        await kills.run()
    return asking, kills


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--workload", default="", help="whose service (default: MILLRACE_WORKLOAD)")
    parser.add_argument("--kills", type=int, default=2, help="of each kind of process (default 2; in full 30)")
    parser.add_argument("--minutes", type=float, default=0.0, help="afterwards all at random (default 0; in full 10)")
    parser.add_argument(
        "--apart", type=float, nargs=2, default=[1.0, 8.0], metavar="S", help="between kills (default 1 8)"
    )
    parser.add_argument("--alone", action="store_true", help="kill only when everything that answers is there again")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", help="such as envoy transformer supervisor")
    parser.add_argument("--seed", type=int, help="the same one kills at the same moments (default: by the clock)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (default 100)")
    parser.add_argument("--clients", type=int, default=8, help="at once (default 8)")
    parser.add_argument("--entities", type=int, default=50, help="that events are of (default 50)")
    parser.add_argument("--timeout_s", type=float, default=10.0, help="of one try (default 10)")
    parser.add_argument("--deadline_s", type=float, default=120.0, help="for who reads the events (default 120)")
    parser.add_argument("--out", type=Path, help="where the report goes (default <home>/bench/chaos.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
