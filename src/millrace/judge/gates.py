"""Rules and verdicts. Measured values and limits in, a verdict out; a gate blocks unless every rule passes.

What is measured lives with the component that measures it; `components/gate` turns a failed verdict into a
failed pipeline step.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from millrace.errors import GateBlocked, InvalidInput
from millrace.lake.atomic import write_text

COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Rule:
    """One measured value held against one limit. A value that is absent or not finite fails."""

    name: str
    value: float | None
    comparison: str
    limit: float
    detail: str = ""
    accepted: str = ""
    """Why a run may go on although the rule did not pass; empty where nobody said so."""

    def __post_init__(self) -> None:
        if self.comparison not in COMPARISONS:
            wanted = sorted(COMPARISONS)
            raise InvalidInput(f"rule {self.name!r}: comparison is {self.comparison!r}; wanted one of {wanted}")

    @property
    def passed(self) -> bool:
        """True only for a finite value on the right side of the limit."""
        return self.measured is not None and bool(COMPARISONS[self.comparison](self.measured, self.limit))

    @property
    def blocks(self) -> bool:
        """Whether the rule stops a run: it did not pass, and nobody accepted that."""
        return not self.passed and not self.accepted

    @property
    def measured(self) -> float | None:
        """The value where it is a number; JSON knows neither NaN nor infinity."""
        return None if self.value is None or not math.isfinite(self.value) else self.value

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.6g}"
        mark = "pass" if self.passed else "accepted" if self.accepted else "FAIL"
        detail = f"; {self.detail}" if self.detail else ""
        why = f"; accepted: {self.accepted}" if self.accepted and not self.passed else ""
        return f"{mark}  {self.name}: {value} (wanted {self.comparison} {self.limit:.6g}){detail}{why}"


def wanted(name: str, value: float | None, comparison: str, limit: float | None, detail: str = "") -> list[Rule]:
    """The rule of one figure; none where nothing is demanded."""
    return [] if limit is None else [Rule(name, value, comparison, limit, detail)]


def family(name: str) -> str:
    """A rule's name without what it was applied to: `slice_auc_roc[weekend]` → `slice_auc_roc`."""
    return name.partition("[")[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """All the rules of one gate. No rules is a failure: a gate that measured nothing has not passed."""

    gate: str
    rules: tuple[Rule, ...]

    @property
    def passed(self) -> bool:
        """True when every rule passed, or its failure was accepted."""
        return bool(self.rules) and not any(rule.blocks for rule in self.rules)

    @property
    def failures(self) -> tuple[Rule, ...]:
        """Rules that block."""
        return tuple(rule for rule in self.rules if rule.blocks)

    @property
    def accepted(self) -> tuple[Rule, ...]:
        """Rules that did not pass, and were accepted."""
        return tuple(rule for rule in self.rules if rule.accepted and not rule.passed)

    def accepting(self, reasons: Mapping[str, str]) -> Verdict:
        """The same rules, those of these names with why their failure is accepted."""
        rules = (replace(rule, accepted=reasons.get(rule.name, rule.accepted)) for rule in self.rules)
        return Verdict(self.gate, tuple(rules))

    @property
    def headline(self) -> str:
        """What the gate says, in a line without its rules."""
        if self.passed:
            accepted = f", {len(self.accepted)} of them accepted" if self.accepted else ""
            return f"gate {self.gate!r} passed ({len(self.rules)} rules{accepted})"
        if not self.rules:
            return f"gate {self.gate!r} blocked: it measured nothing"
        return f"gate {self.gate!r} blocked: {len(self.failures)} of {len(self.rules)} rules failed"

    def summary(self) -> str:
        """One line for a pass; for a failure a line more for each failed rule."""
        return "\n".join([self.headline, *(f"  {rule}" for rule in self.failures)])

    def require(self) -> None:
        """Raise `GateBlocked` unless the verdict passed."""
        if not self.passed:
            raise GateBlocked(self)

    def to_dict(self) -> dict[str, Any]:
        rules = [asdict(rule) | {"value": rule.measured, "passed": rule.passed} for rule in self.rules]
        return {"gate": self.gate, "passed": self.passed, "rules": rules}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Verdict:
        """Inverse of `to_dict`; `passed` is recomputed from the rules, never read."""
        fields = ("name", "value", "comparison", "limit", "detail")
        try:
            rules = tuple(
                Rule(**{key: rule[key] for key in fields}, accepted=rule.get("accepted", ""))
                for rule in document["rules"]
            )
            return cls(document["gate"], rules)
        except (KeyError, TypeError) as error:
            raise InvalidInput(f"not a verdict: {error}. Wanted {{gate, rules: [{', '.join(fields)}]}}") from error

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Verdict:
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


def require_all(verdicts: Iterable[Verdict]) -> None:
    """Raise one `GateBlocked` that names every failed rule of every verdict; raise too when there is none."""
    verdicts = tuple(verdicts)
    if not verdicts:
        raise GateBlocked(Verdict("none", ()))
    if not all(verdict.passed for verdict in verdicts):
        raise GateBlocked(*verdicts)
