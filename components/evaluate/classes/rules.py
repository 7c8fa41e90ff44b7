"""The rules of the evaluation gate: evidence and limits in, one rule with value and limit per demand out.

A figure that could not be measured fails its rule. What is measured is in `evidence.py`; the limits are the
workload's. Where nothing is reviewed there are no rules about reviews, thresholds and attacks.
"""

from __future__ import annotations

from components.evaluate.baselines import XGBOOST
from components.evaluate.classes.baselines import LOGISTIC_REGRESSION
from components.evaluate.classes.evidence import Evidence
from components.evaluate.classes.words import Words
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.rules import each, fast_enough, no_loss
from millrace.judge.gates import Rule


def judge(evidence: Evidence, limits: ClassLimits, words: Words) -> tuple[Rule, ...]:
    """Every rule of the gate; `words` are for those who read its details."""
    reviewed = limits if isinstance(limits, RankingLimits) else None
    return (
        *_floors(evidence, limits),
        *([] if reviewed is None else _reviews(evidence, reviewed)),
        *([] if reviewed is None else _threshold(evidence, reviewed, words)),
        *_against_baselines(evidence, limits),
        *_against_champion(evidence, limits),
        *_slices(evidence, limits, words),
        *_stresses(evidence, limits),
        *([] if reviewed is None else _attacks(evidence, reviewed, words)),
        *fast_enough(evidence.latency, limits),
    )


def _floors(e: Evidence, limits: ClassLimits) -> list[Rule]:
    wanted = {
        "auc_roc": (">=", limits.min_auc_roc),
        "average_precision": (">=", limits.min_average_precision),
        "calibration_error": ("<=", limits.max_calibration_error),
        "brier_skill": (">=", limits.min_brier_skill),
    }
    detail = f"of {e.protocol.rows} judged rows"
    return [
        Rule("test_positives", e.protocol.positives, ">=", limits.min_test_positives, detail),
        *(Rule(name, e.figures[name].value, *limit, str(e.figures[name])) for name, limit in wanted.items()),
    ]


def _reviews(e: Evidence, limits: RankingLimits) -> list[Rule]:
    precision = e.figures["unit_precision"]
    cost = e.figures["cost_ratio"]
    perfect = e.perfect_unit_precision
    reached = e.protocol.unit_precision
    share = reached / perfect if reached is not None and perfect else None

    detail = f"a perfect ranking reaches {perfect or 0.0:.3f}"
    return [
        Rule("unit_precision", precision.value, ">=", limits.min_unit_precision, str(precision)),
        Rule("unit_precision_share", share, ">=", limits.min_unit_precision_share, detail),
        Rule("cost_ratio", cost.value, "<=", limits.max_cost_ratio, str(cost)),
    ]


def _threshold(e: Evidence, limits: RankingLimits, words: Words) -> list[Rule]:
    at = e.at_threshold
    capacity = e.review_capacity
    if at is None or not capacity:
        names = ("threshold_precision", "threshold_recall", "flagged_units_ratio")
        return [Rule(name, None, ">=", 0.0, "the model has no decision threshold") for name in names]

    flagged = at.flagged_units_per_day
    detail = f"at the decision threshold {at.threshold:.4g}"
    load = f"{flagged:.0f} {words.units} a day, capacity {capacity}"
    return [
        Rule("threshold_precision", at.precision, ">=", limits.min_threshold_precision, detail),
        Rule("threshold_recall", at.recall, ">=", limits.min_threshold_recall, detail),
        Rule("flagged_units_ratio", flagged / capacity, "<=", limits.max_flagged_units_ratio, load),
    ]


def _against_baselines(e: Evidence, limits: ClassLimits) -> list[Rule]:
    gains = {name: found.gain for name, found in e.baselines.items()}
    logistic = gains.pop(LOGISTIC_REGRESSION)
    boosted = gains.pop(XGBOOST)

    least = limits.min_gain_over_logistic_regression
    own = {name: gain.low for name, gain in gains.items()}
    return [
        Rule("gain_over_logistic_regression", logistic.low, ">", least, f"low end of {logistic}"),
        Rule("gain_over_xgboost", boosted.value, ">=", -limits.max_loss_to_xgboost, str(boosted)),
        *each("gain_over", own, ">", limits.min_gain_over, "low end of the gain"),
    ]


def _against_champion(e: Evidence, limits: ClassLimits) -> list[Rule]:
    if e.champion is None:
        return []

    found = e.champion.comparison
    gain = None if found is None else found.gain
    rules = [no_loss("gain_over_champion", e.champion, gain, limits.max_loss_to_champion)]
    if isinstance(limits, RankingLimits):
        reviewed = None if found is None else found.unit_precision
        loss = limits.max_unit_precision_loss_to_champion
        rules.append(no_loss("unit_precision_gain_over_champion", e.champion, reviewed, loss))
    return rules


def _slices(e: Evidence, limits: ClassLimits, words: Words) -> list[Rule]:
    """One rule per slice with enough rows of both kinds; smaller ones are reported, not judged."""
    return [
        Rule(
            f"slice_auc_roc[{name}]",
            part.auc_roc.value,
            ">=",
            limits.slice_auc_floors.get(name, limits.slice_auc_floor),
            f"{part.positives} {words.positives} of {part.rows} rows, {part.auc_roc}",
        )
        for name, part in e.slices.items()
        if part.positives >= limits.min_slice_positives and part.rows - part.positives >= limits.min_slice_negatives
    ]


def _stresses(e: Evidence, limits: ClassLimits) -> list[Rule]:
    kept = {name: figures.kept for name, figures in e.stresses.items()}
    detail = "share of the average precision above chance that is kept"
    return each("stress_kept", kept, ">=", limits.stress_floors, detail)


def _attacks(e: Evidence, limits: RankingLimits, words: Words) -> list[Rule]:
    passed = {name: figures.passed for name, figures in e.attacks.items()}
    detail = f"share of the {words.positives}' money that gets past the decision threshold"
    return each("attack_passed", passed, "<=", limits.attack_ceilings, detail)
