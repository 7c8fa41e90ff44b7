"""The rules of the evaluation gate: evidence and limits in, one rule with value and limit per demand out.

A figure that could not be measured fails its rule. What is measured is in `evidence.py`; the limits are
in `evaluate.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.evaluate.baselines import LOGISTIC_REGRESSION, XGBOOST
from components.evaluate.config import EvaluateConfig
from components.evaluate.evidence import Evidence
from millrace.judge.gates import Rule


def judge(evidence: Evidence, config: EvaluateConfig) -> tuple[Rule, ...]:
    """Every rule of the gate."""
    return (
        *_floors(evidence, config),
        *_threshold(evidence, config),
        *_against_baselines(evidence, config),
        *_against_champion(evidence, config),
        *_slices(evidence, config),
        *_stresses(evidence, config),
        *_attacks(evidence, config),
        Rule("latency_p50_ms", evidence.latency.p50_ms, "<=", config.max_latency_p50_ms),
        Rule("latency_p99_ms", evidence.latency.p99_ms, "<=", config.max_latency_p99_ms),
    )


def family(name: str) -> str:
    """A rule's name without what it was applied to: `slice_auc_roc[weekend]` → `slice_auc_roc`."""
    return name.partition("[")[0]


def _floors(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    share = e.protocol.unit_precision / e.perfect_unit_precision if e.perfect_unit_precision else None
    limits = {
        "auc_roc": (">=", config.min_auc_roc),
        "average_precision": (">=", config.min_average_precision),
        "unit_precision": (">=", config.min_unit_precision),
        "calibration_error": ("<=", config.max_calibration_error),
        "brier_skill": (">=", config.min_brier_skill),
        "cost_ratio": ("<=", config.max_cost_ratio),
    }
    detail = f"a perfect ranking reaches {e.perfect_unit_precision:.3f}"
    return [
        Rule(
            "test_positives", e.protocol.positives, ">=", config.min_test_positives, f"of {e.protocol.rows} judged rows"
        ),
        *(Rule(name, e.figures[name].value, *limit, str(e.figures[name])) for name, limit in limits.items()),
        Rule("unit_precision_share", share, ">=", config.min_unit_precision_share, detail),
    ]


def _threshold(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    at = e.at_threshold
    detail = f"at the decision threshold {at.threshold:.4g}"
    cards = at.flagged_units_per_day
    return [
        Rule("threshold_precision", at.precision, ">=", config.min_threshold_precision, detail),
        Rule("threshold_recall", at.recall, ">=", config.min_threshold_recall, detail),
        Rule(
            "flagged_units_ratio",
            cards / e.review_capacity,
            "<=",
            config.max_flagged_units_ratio,
            f"{cards:.0f} cards a day, capacity {e.review_capacity}",
        ),
    ]


def _against_baselines(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    logistic, boosted = (e.baselines[name].average_precision for name in (LOGISTIC_REGRESSION, XGBOOST))
    low, gain = config.min_gain_over_logistic_regression, str(logistic)
    return [
        Rule("gain_over_logistic_regression", logistic.low, ">", low, f"low end of {gain}"),
        Rule("gain_over_xgboost", boosted.value, ">=", -config.max_loss_to_xgboost, str(boosted)),
    ]


def _against_champion(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    if e.champion is None:
        return []
    limits = {
        "average_precision": ("gain_over_champion", config.max_loss_to_champion),
        "unit_precision": ("unit_precision_gain_over_champion", config.max_unit_precision_loss_to_champion),
    }
    rules = []
    for figure, (name, loss) in limits.items():
        found = getattr(e.champion.comparison, figure, None)
        detail = e.champion.why_not if found is None else f"high end of {found}, champion {e.champion.id}"
        rules.append(Rule(name, None if found is None else found.high, ">=", -loss, detail))
    return rules


def _slices(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    """One rule per slice with enough rows of both kinds; smaller ones are reported, not judged."""
    return [
        Rule(
            f"slice_auc_roc[{name}]",
            part.auc_roc.value,
            ">=",
            config.slice_auc_floors.get(name, config.slice_auc_floor),
            f"{part.frauds} frauds of {part.rows} rows, {part.auc_roc}",
        )
        for name, part in e.slices.items()
        if part.frauds >= config.min_slice_positives and part.rows - part.frauds >= config.min_slice_negatives
    ]


def _stresses(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    kept = {name: figures.kept for name, figures in e.stresses.items()}
    detail = "share of the average precision above chance that is kept"
    return _each("stress_kept", kept, ">=", config.stress_floors, detail)


def _attacks(e: Evidence, config: EvaluateConfig) -> list[Rule]:
    passed = {name: figures.passed for name, figures in e.attacks.items()}
    detail = "share of the frauds' money that gets past the decision threshold"
    return _each("attack_passed", passed, "<=", config.attack_ceilings, detail)


def _each(
    kind: str, values: Mapping[str, float], comparison: str, limits: Mapping[str, float], detail: str
) -> list[Rule]:
    """One rule per name; a limit without its value fails, and so does a value without its limit."""
    return [
        Rule(f"{kind}[{name}]", values.get(name), comparison, limits[name], detail)
        if name in limits
        else Rule(f"{kind}[{name}]", None, comparison, 0.0, "no limit in evaluate.yaml")
        for name in dict.fromkeys([*values, *limits])
    ]
