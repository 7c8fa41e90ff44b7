"""What a fuzzing run has found: counts by kind, the failing requests, a table."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.fuzz.judge import FAULTS
from benchmarks.fuzz.requests import Request

KEPT: Final = 200
"""Failing requests of each kind of fault that are written down."""


@dataclass
class Report:
    """`add` for every request."""

    seed: int
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, kind: str, status: str, fault: str = "", about: dict[str, Any] | None = None) -> None:
        self.requests[kind] += 1
        self.statuses[kind][status] += 1
        if fault:
            self.faults[kind, fault] += 1
            if self.total(fault) <= KEPT:
                self.failures.append({"kind": kind, "fault": fault, "status": status, **(about or {})})

    def total(self, fault: str) -> int:
        return sum(count for (_, known), count in self.faults.items() if known == fault)

    @property
    def found_something(self) -> bool:
        return bool(self.faults)

    def document(self) -> dict[str, Any]:
        return {
            "requests": self.requests.total(),
            **{fault: self.total(fault) for fault in FAULTS},
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "by_kind": {
                kind: {
                    "requests": count,
                    **{fault: self.faults[kind, fault] for fault in FAULTS},
                    "statuses": dict(sorted(self.statuses[kind].items())),
                }
                for kind, count in sorted(self.requests.items())
            },
            "findings": self.failures,
        }


def about(request: Request, why: str, exchange: Sequence[Request], received: bytes) -> dict[str, Any]:
    """A failing request, for whoever wants to send it again.

    `sent` is the request itself, `exchange` all that was sent in one go with it, `received` what came back to that.
    """
    return {
        "number": request.number,
        "mutation": request.mutation,
        "why": why,
        "address": str(request.address),
        "ends": request.ends,
        "sent": encoded(b"".join(request.written())),
        "exchange": [encoded(b"".join(item.written())) for item in exchange],
        "received": encoded(received),
    }


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def show(report: Report, console: Console) -> None:
    table = Table("kind", "requests", *FAULTS, "statuses")
    for kind, row in report.document()["by_kind"].items():
        statuses = ", ".join(f"{status}: {count}" for status, count in row["statuses"].items())
        table.add_row(kind, str(row["requests"]), *(str(row[fault]) for fault in FAULTS), statuses)
    table.add_row("all", str(report.requests.total()), *(str(report.total(fault)) for fault in FAULTS), "")
    console.print(table)
    for failure in report.failures[:10]:
        console.print(f"{failure['fault']} {failure['kind']} {failure.get('mutation', '')}: {failure.get('why', '')}")
