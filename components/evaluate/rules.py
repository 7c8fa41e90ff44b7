"""Rules that the gate has for every task: of names with limits, the champion, and how fast an answer must be."""

from __future__ import annotations

from collections.abc import Mapping

from components.evaluate.config import EvaluateConfig
from components.evaluate.evidence import Champion
from components.evaluate.latency import Latency
from millrace.judge.bootstrap import Interval
from millrace.judge.gates import Rule, wanted


def each(
    kind: str, values: Mapping[str, float], comparison: str, limits: Mapping[str, float] | None, detail: str
) -> list[Rule]:
    """One rule per name; a limit without its value fails, and so does a value without its limit.

    None where there are no limits at all.
    """
    if limits is None:
        return []
    return [
        Rule(f"{kind}[{name}]", values.get(name), comparison, limits[name], detail)
        if name in limits
        else Rule(f"{kind}[{name}]", None, comparison, 0.0, "no limit among those of the workload")
        for name in dict.fromkeys([*values, *limits])
    ]


def alike(kind: str, found: Mapping[str, tuple[float | None, str]], comparison: str, limit: float | None) -> list[Rule]:
    """One rule per name of `found`, which has values and details; all have one limit, and none is made without it."""
    return [
        rule
        for name, (value, detail) in found.items()
        for rule in wanted(f"{kind}[{name}]", value, comparison, limit, detail)
    ]


def no_loss(name: str, champion: Champion, gain: Interval | None, loss: float) -> Rule:
    """Demands that the model is not worse than the champion beyond doubt; fails where the champion gave no answers."""
    if gain is None:
        return Rule(name, None, ">=", -loss, champion.why_not)
    return Rule(name, gain.high, ">=", -loss, f"high end of {gain}, champion {champion.id}")


def fast_enough(latency: Latency, limits: EvaluateConfig) -> list[Rule]:
    """Ceilings of the time that one row takes."""
    return [
        Rule("latency_p50_ms", latency.p50_ms, "<=", limits.max_latency_p50_ms),
        Rule("latency_p99_ms", latency.p99_ms, "<=", limits.max_latency_p99_ms),
    ]
