"""What a run came to: a row for each kind of process that was killed, and the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.audit import Findings
from benchmarks.chaos.load import Asked


@dataclass
class Report:
    """`found` is what the audit found; the rest is what clients saw."""

    seed: int
    asked: list[Asked]
    kills: Counter[str]
    """Phase → how many."""
    seconds: dict[str, float]
    found: Findings
    wrong: list[str] = field(default_factory=list)
    """Answers of another's, and refusals."""
    why: Counter[str] = field(default_factory=Counter)

    @property
    def whole(self) -> bool:
        """Nothing acknowledged is missing or there twice, and every state and the audit chain are right."""
        found = self.found
        lost = found.missing or found.twice or found.states_wrong or found.other_entity
        return not (lost or found.chain or self.wrong)

    def document(self) -> dict[str, Any]:
        found = self.found
        return {
            **self._row(list(self.kills)),
            "states_wrong": len(found.states_wrong),
            "states": found.states,
            "audit_chain": found.chain or "whole",
            "wrong_answers": len(self.wrong),
            "refused_events": found.refused,
            "behind": found.behind,
            "caught_up_s": round(found.caught_up_s, 1),
            "failed_tries": dict(self.why),
            "seed": self.seed,
            "by_kind": {phase: self._row([phase]) for phase in self.kills},
        }

    def examples(self) -> list[str]:
        """Some of what is wrong, a line each."""
        found = self.found
        kinds = {
            "missing": found.missing,
            "twice": found.twice,
            "other entity": found.other_entity,
            "other score": found.other_score,
        }
        lines = [f"{kind}: {_named(each)}" for kind, rows in kinds.items() for each in rows[:3]]
        lines += [f"state of {key}: {wrong}" for key, wrong in list(found.states_wrong.items())[:5]]
        lines += [f"{name} is {events} events behind" for name, events in found.behind.items()]
        return [*lines, *([found.chain] if found.chain else []), *self.wrong[:3]]

    def _row(self, phases: list[str]) -> dict[str, Any]:
        asked = [one for one in self.asked if one.phase in phases]
        answered = [one for one in asked if one.answered_at is not None]
        found = self.found
        return {
            "kills": sum(self.kills[phase] for phase in phases),
            "acknowledged": sum(len(one.rows) for one in answered),
            "missing": _of(found.missing, phases),
            "twice": _of(found.twice, phases),
            "other_entity": _of(found.other_entity, phases),
            "other_score": _of(found.other_score, phases),
            "outage_s": round(max((one.waited_s for one in asked), default=0.0), 2),
            "failures": sum(one.failures for one in asked),
            "given_up": len(asked) - len(answered),
            "seconds": round(sum(self.seconds.get(phase, 0.0) for phase in phases), 1),
        }


def show(report: Report, console: Console) -> None:
    columns = ("kills", "acknowledged", "missing", "twice", "other_score", "outage_s", "failures", "given_up")
    table = Table("killed", *columns, "seconds")
    document = report.document()
    for phase, row in [*document["by_kind"].items(), ("all", document)]:
        table.add_row(phase, *(str(row[name]) for name in (*columns, "seconds")))
    console.print(table)
    told = f"{document['states_wrong']} of {document['states']} states wrong; the audit chain is "
    console.print(f"{told}{document['audit_chain']}; caught up after {document['caught_up_s']} s; seed {report.seed}")
    for line in report.examples():
        console.print(line)


def _of(rows: Iterable[tuple[Asked, int]], phases: list[str]) -> int:
    return sum(asked.phase in phases for asked, _ in rows)


def _named(row: tuple[Asked, int]) -> str:
    asked, place = row
    return f"row {place} of {asked.request_id}, after {asked.failures} failed tries, while {asked.phase} was killed"
