"""The rules of the evaluation gate: evidence and limits in, one rule with value and limit per demand out.

A figure that could not be measured fails its rule; a demand whose limit is null is none. What is measured is in
`evidence.py` and `relative.py`. Where nothing is reviewed there are no rules about reviews, thresholds and attacks.
"""

from __future__ import annotations

from components.evaluate.baselines import XGBOOST
from components.evaluate.classes.attacks import AS_IT_WAS
from components.evaluate.classes.baselines import LOGISTIC_REGRESSION
from components.evaluate.classes.evidence import Evidence
from components.evaluate.classes.words import Words
from components.evaluate.config import ClassLimits, RankingLimits
from components.evaluate.rules import alike, each, fast_enough, no_loss
from millrace.judge.gates import Rule, wanted


def judge(evidence: Evidence, limits: ClassLimits, words: Words) -> tuple[Rule, ...]:
    """Every rule of the gate; `words` are for those who read its details."""
    reviewed = limits if isinstance(limits, RankingLimits) else None
    return (
        *_floors(evidence, limits),
        *([] if reviewed is None else _reviews(evidence, reviewed, words)),
        *([] if reviewed is None else _threshold(evidence, reviewed, words)),
        *_against_baselines(evidence, limits),
        *_against_champion(evidence, limits),
        *_slices(evidence, limits, words),
        *_stresses(evidence, limits),
        *([] if reviewed is None else _attacks(evidence, reviewed, words)),
        *fast_enough(evidence.latency, limits),
    )


def _floors(e: Evidence, limits: ClassLimits) -> list[Rule]:
    figures = e.figures
    detail = f"of {e.protocol.rows} judged rows"
    lift = e.average_precision_lift
    error = figures["calibration_error"].value
    guessed = 2 * e.positive_share * (1 - e.positive_share)
    feature = e.best_feature

    def figure(name: str, comparison: str, limit: float | None) -> list[Rule]:
        return wanted(name, figures[name].value, comparison, limit, str(figures[name]))

    return [
        Rule("test_positives", e.protocol.positives, ">=", limits.min_test_positives, detail),
        *wanted("leaked_feature", feature.skill, "<=", limits.max_feature_skill, f"of {feature.name!r} alone"),
        *figure("auc_roc", ">=", limits.min_auc_roc),
        *wanted("auc_roc_low", figures["auc_roc"].low, ">=", limits.min_auc_roc_low, str(figures["auc_roc"])),
        *figure("average_precision", ">=", limits.min_average_precision),
        *wanted(
            "average_precision_lift",
            lift.low,
            ">=",
            limits.min_average_precision_lift,
            f"low end of {lift}; {e.positive_share:.3%} are positive",
        ),
        *figure("calibration_error", "<=", limits.max_calibration_error),
        *wanted(
            "calibration_error_ratio",
            error / guessed if guessed > 0 else None,
            "<=",
            limits.max_calibration_error_ratio,
            f"{error:.3g} over {guessed:.3g}",
        ),
        *figure("brier_skill", ">=", limits.min_brier_skill),
        *wanted(
            "brier_skill_high",
            figures["brier_skill"].high,
            ">=",
            limits.min_brier_skill_high,
            str(figures["brier_skill"]),
        ),
    ]


def _reviews(e: Evidence, limits: RankingLimits, words: Words) -> list[Rule]:
    precision = e.figures["unit_precision"]
    cost = e.figures["cost_ratio"]
    perfect = e.perfect_unit_precision
    reached = e.protocol.unit_precision
    share = reached / perfect if reached is not None and perfect else None
    lift = e.unit_precision_lift

    detail = f"a perfect ranking reaches {perfect or 0.0:.3f}"
    at_random = f"{lift}, {e.review_capacity} {words.units} a day"
    return [
        *wanted("unit_precision", precision.value, ">=", limits.min_unit_precision, str(precision)),
        *wanted("unit_precision_share", share, ">=", limits.min_unit_precision_share, detail),
        *wanted("unit_precision_lift", lift and lift.value, ">", limits.min_unit_precision_lift, at_random),
        *wanted("cost_ratio", cost.value, "<=", limits.max_cost_ratio, str(cost)),
    ]


def _threshold(e: Evidence, limits: RankingLimits, words: Words) -> list[Rule]:
    at = e.at_threshold
    capacity = e.review_capacity
    if at is None or not capacity:
        asked = {
            "threshold_precision": limits.min_threshold_precision,
            "threshold_recall": limits.min_threshold_recall,
            "threshold_lift": limits.min_threshold_lift,
            "flagged_units_ratio": limits.max_flagged_units_ratio,
        }
        why = "the model has no decision threshold"
        return [rule for name, limit in asked.items() for rule in wanted(name, None, ">=", limit, why)]

    flagged = at.flagged_units_per_day
    detail = f"at the decision threshold {at.threshold:.4g}"
    load = f"{flagged:.0f} {words.units} a day, capacity {capacity}"
    lift = at.precision / e.positive_share if e.positive_share > 0 else None
    over = f"{at.precision:.3g} {detail}, over {e.positive_share:.3g}"
    return [
        *wanted("threshold_precision", at.precision, ">=", limits.min_threshold_precision, detail),
        *wanted("threshold_recall", at.recall, ">=", limits.min_threshold_recall, detail),
        *wanted("threshold_lift", lift, ">=", limits.min_threshold_lift, over),
        *wanted("flagged_units_ratio", flagged / capacity, "<=", limits.max_flagged_units_ratio, load),
    ]


def _against_baselines(e: Evidence, limits: ClassLimits) -> list[Rule]:
    gains = {name: found.gain for name, found in e.baselines.items()}
    logistic = gains.pop(LOGISTIC_REGRESSION)
    boosted = gains.pop(XGBOOST)

    least = limits.min_gain_over_logistic_regression
    loss = None if limits.max_loss_to_xgboost is None else -limits.max_loss_to_xgboost
    shares = {
        LOGISTIC_REGRESSION: limits.min_share_of_logistic_regression,
        XGBOOST: limits.min_share_of_xgboost,
    }
    own = {name: gain.low for name, gain in gains.items()}
    return [
        *wanted("gain_over_logistic_regression", logistic.low, ">", least, f"low end of {logistic}"),
        *wanted("gain_over_xgboost", boosted.value, ">=", loss, str(boosted)),
        *(rule for name, limit in shares.items() for rule in _share_of(e, name, limit)),
        *each("gain_over", own, ">", limits.min_gain_over, "low end of the gain"),
    ]


def _share_of(e: Evidence, name: str, limit: float | None) -> list[Rule]:
    """How much of what another reaches above guessing the model may reach, at the high end of its gain."""
    found = e.baselines[name]
    reached = found.other["average_precision"]
    above = reached - e.positive_share
    gain = found.gain
    detail = f"its average precision is {reached:.3f}, guessing's {e.positive_share:.3f}; gain over it {gain}"
    if above <= 0:
        return wanted(f"share_of[{name}]", float(gain.high >= 0), ">=", limit, f"no better than guessing: {detail}")
    return wanted(f"share_of[{name}]", 1 + gain.high / above, ">=", limit, detail)


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
    """Rules per slice with enough rows of both kinds; smaller ones are reported, not judged."""
    rules = []
    for name, part in e.slices.items():
        if part.positives < limits.min_slice_positives or part.rows - part.positives < limits.min_slice_negatives:
            continue

        rows = f"{part.positives} {words.positives} of {part.rows} rows"
        floor = limits.slice_auc_floors.get(name, limits.slice_auc_floor)
        rules += wanted(f"slice_auc_roc[{name}]", part.auc_roc.value, ">=", floor, f"{rows}, {part.auc_roc}")
        loss = part.auc_loss
        detail = f"{rows}, low end of {loss}"
        rules += wanted(f"slice_auc_loss[{name}]", loss and loss.low, "<=", limits.max_slice_auc_loss, detail)
    return rules


def _stresses(e: Evidence, limits: ClassLimits) -> list[Rule]:
    kept = {name: figures.kept for name, figures in e.stresses.items()}
    lost = {
        name: (
            one.loss and one.loss.low,
            f"low end of {one.loss}, of what a good day has above guessing; the model keeps {one.kept:.0%}",
        )
        for name, one in e.stresses.items()
    }
    detail = "share of the average precision above chance that is kept"
    return [
        *each("stress_kept", kept, ">=", limits.stress_floors, detail),
        *alike("stress_loss", lost, "<=", limits.max_stress_loss),
    ]


def _attacks(e: Evidence, limits: RankingLimits, words: Words) -> list[Rule]:
    money = f"the {words.positives}' money"
    passed = {name: figures.passed for name, figures in e.attacks.items()}
    lost = {
        name: (one.loss and one.loss.low, f"low end of {one.loss}, of {money}; it gains {one.gained:.0%}")
        for name, one in e.attacks.items()
        if name != AS_IT_WAS
    }
    return [
        *each(
            "attack_passed",
            passed,
            "<=",
            limits.attack_ceilings,
            f"share of {money} that gets past the decision threshold",
        ),
        *alike("attack_loss", lost, "<=", limits.max_attack_loss),
    ]
