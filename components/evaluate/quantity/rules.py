"""The rules of the evaluation gate for a quantity: evidence and limits in, one rule with value and limit a demand out.

A figure that could not be measured fails its rule. What is measured is in `evidence.py`; the limits are the workload's.
"""

from __future__ import annotations

from components.evaluate.baselines import XGBOOST
from components.evaluate.config import QuantityLimits
from components.evaluate.quantity.evidence import Evidence
from components.evaluate.rules import alike, each, fast_enough, no_loss
from millrace.judge.bootstrap import Interval
from millrace.judge.gates import Rule, wanted


def judge(evidence: Evidence, limits: QuantityLimits) -> tuple[Rule, ...]:
    """Every rule of the gate."""
    return (
        Rule("test_rows", evidence.rows, ">=", limits.min_test_rows, f"of {evidence.units} units"),
        *wanted(
            "leaked_feature",
            evidence.best_feature.skill,
            "<=",
            limits.max_feature_skill,
            f"of {evidence.best_feature.name!r} alone",
        ),
        *_errors(evidence, limits),
        *_intervals(evidence, limits),
        *_against_baselines(evidence, limits),
        *_against_champion(evidence, limits),
        *_slices(evidence, limits),
        *_stresses(evidence, limits),
        *fast_enough(evidence.latency, limits),
    )


def _errors(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    """Ceilings of MAE and RMSE where the workload has them, and how much of the error is bias."""
    ceilings = {"mae": limits.max_mae, "rmse": limits.max_rmse}
    rules = [
        Rule(name, e.figures[name].value, "<=", limit, str(e.figures[name]))
        for name, limit in ceilings.items()
        if limit is not None
    ]
    bias = e.figures["bias"]
    error = e.figures["mae"].value
    share = abs(bias.value) / error if error > 0 else None
    detail = f"mean of prediction less truth {bias}, over the MAE"
    return [*rules, Rule("bias_share", share, "<=", limits.max_bias_share, detail)]


def _intervals(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    """Intervals that hold the truth as often as they should, and are narrower than knowing nothing would make them."""
    covered = e.figures.get("coverage")
    held = None if covered is None else covered.value
    width = e.figures.get("interval_width")
    share = width.value / e.spread if width is not None and e.spread > 0 else None

    detail = f"mean width {_shown(width)}; without knowing the event it would be {e.spread:.3f}"
    return [
        Rule("coverage_low", held, ">=", limits.min_coverage, _shown(covered)),
        Rule("coverage_high", held, "<=", limits.max_coverage, _shown(covered)),
        Rule("interval_width_share", share, "<=", limits.max_interval_width_share, detail),
    ]


def _against_baselines(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    boosted = e.baselines[XGBOOST].gain
    low_ends = {name: found.gain.low for name, found in e.baselines.items() if name != XGBOOST}
    return [
        *each("gain_over", low_ends, ">", limits.min_gain_over, "low end of the share of its MAE that is saved"),
        Rule("gain_over_xgboost", boosted.value, ">=", -limits.max_loss_to_xgboost, str(boosted)),
    ]


def _against_champion(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    if e.champion is None:
        return []

    found = e.champion.comparison
    gain = None if found is None else found.gain
    return [no_loss("gain_over_champion", e.champion, gain, limits.max_loss_to_champion)]


def _slices(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    """One rule per slice with enough rows; smaller ones are reported, not judged."""
    return [
        Rule(
            f"slice_mae_ratio[{name}]",
            part.mae_ratio.value,
            "<=",
            limits.slice_mae_ceilings.get(name, limits.slice_mae_ceiling),
            f"{part.rows} rows, MAE {part.mae}, over that of XGBoost",
        )
        for name, part in e.slices.items()
        if part.rows >= limits.min_slice_rows
    ]


def _stresses(e: Evidence, limits: QuantityLimits) -> list[Rule]:
    growth = {name: figures.growth for name, figures in e.stresses.items()}
    over = {
        name: (one.over_xgboost, f"the model's MAE becomes {one.growth:.2f} times as large")
        for name, one in e.stresses.items()
    }
    return [
        *each("stress_growth", growth, "<=", limits.stress_ceilings, "MAE over that with good inputs"),
        *alike("stress_growth_over_xgboost", over, "<=", limits.max_stress_growth_over_xgboost),
    ]


def _shown(figure: Interval | None) -> str:
    return "the model gives no intervals" if figure is None else str(figure)
