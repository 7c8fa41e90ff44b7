"""What watching costs, how often it is wrong and how soon it is right: `.venv-drift/bin/python -m benchmarks.drift`.

Time and memory per backend are those of a window of 1,000 requests × 33 features on one thread, in a fresh process
each. False alarms and power are measured on simulated days with the real features. Writes `<home>/bench/drift.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud import features as f
from fraud.simulator import SimulationConfig, simulate
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.atomic import write_text
from millrace.settings import settings

REQUESTS_A_DAY: Final = 9_600
"""Of the full simulation: what a false-alarm rate per 30 days is counted in."""
REFERENCE_ROWS: Final = 10_000
REVIEW_SHARE: Final = 0.014
BACKENDS: Final = ("alibi", "streaming")


@dataclass(frozen=True, slots=True)
class Stream:
    """Simulated requests in time order, with real features and the score of a stand-in model."""

    event_us: NDArray[np.int64]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    reference_rows: NDArray[np.int64]
    """Rows that make the reference window: a sample of the first days."""
    threshold: float

    @property
    def first(self) -> int:
        """The first row after the days of the reference."""
        return int(self.reference_rows.max()) + 1


def simulated_stream(
    *, customers: int, days: int, warm_days: int = 31, reference_days: int = 4, seed: int = 0
) -> Stream:
    """`days` of requests after `warm_days` in which histories fill."""
    import duckdb
    import pyarrow as pa

    from fraud import batch

    config = SimulationConfig(
        customers=customers,
        terminals=2 * customers,
        radius=5 * (5000 / customers) ** 0.5,
        days=warm_days + days,
        seed=seed,
    )
    table = pa.concat_tables(simulate(config))
    transactions = batch.events(table)
    event_us = transactions.column("event_us")
    first = int(event_us.min() // DAY_US) + warm_days
    with duckdb.connect(config={"threads": 1}) as connection:
        found = list(batch.daily(connection, transactions, 64, first, first + days - 1))
    position = np.concatenate([day.position for day in found])
    features = np.concatenate([day.features for day in found])
    order = np.lexsort((position, event_us[position]))
    stamps, features = event_us[position[order]], features[order]
    scores = stand_in_scores(features)
    held = int(np.searchsorted(stamps, (first + reference_days) * DAY_US))
    sample = np.random.default_rng(seed).choice(held, min(REFERENCE_ROWS, held), replace=False)
    return Stream(stamps, features, scores, np.sort(sample), float(np.quantile(scores[sample], 1 - REVIEW_SHARE)))


def stand_in_scores(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """A score that reads what the model reads most; any fixed function of the features would do."""

    def column(name: str) -> NDArray[np.float64]:
        return features[:, f.FEATURE_NAMES.index(name)].astype(np.float64)

    logit = -6 + 0.01 * column("amount") + 0.5 * np.clip(column("customer_amount_zscore"), -3, 8)
    logit += 6 * column("terminal_risk_7d") + 0.3 * column("is_night")
    logit -= 0.2 * np.minimum(column("customer_days_since_last"), 3)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def inflated(features: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The same requests with larger amounts; histories are as they were, as they are when it begins."""
    out = features.copy()
    amount, ratio, zscore, mean, std = (
        f.FEATURE_NAMES.index(name)
        for name in (
            "amount",
            "customer_amount_ratio",
            "customer_amount_zscore",
            "customer_mean_amount",
            "customer_std_amount",
        )
    )
    out[:, amount] *= factor
    out[:, ratio] *= factor
    out[:, zscore] = (out[:, amount] - out[:, mean]) / np.maximum(out[:, std], 1)
    return out


def table_of(features: NDArray[np.float32], stream: Stream) -> NDArray[np.float32]:
    """[n, F + 2], as `serving.drift_detector.windows.Rows` wants it."""
    scores = stand_in_scores(features)
    return np.column_stack([features, scores, scores >= stream.threshold]).astype(np.float32)


def detector_of(stream: Stream, backend: str) -> Any:
    from serving.drift_detector.backends import backend_of
    from serving.drift_detector.core import fit
    from serving.drift_detector.judgement import Reference

    rows = stream.reference_rows
    reference = Reference(
        "1", f.FEATURE_NAMES, stream.features[rows], stream.scores[rows], stream.threshold, load("fraud").watch
    )
    return fit(reference, backend_of(backend))


def false_alarms(detector: Any, stream: Stream) -> dict[str, Any]:
    """Alarms on days without drift, per 30 days of REQUESTS_A_DAY, with a 95 % upper bound (Poisson)."""
    from scipy.stats import chi2

    from serving.drift_detector.watch import Watch
    from serving.drift_detector.windows import Rows

    watch = Watch(detector)
    table = table_of(stream.features[stream.first :], stream)
    outcome = watch.add(Rows(stream.event_us[stream.first :], table))
    months = len(table) / REQUESTS_A_DAY / 30
    return {
        "requests": len(table),
        "windows": len(outcome.judged),
        "flagged": sum(judged.judgement.drifted for judged in outcome.judged),
        "alarms": len(outcome.alarms),
        "reasons": [alarm.reason for alarm in outcome.alarms],
        "per_30_days": len(outcome.alarms) / months,
        "per_30_days_upper_95": float(chi2.ppf(0.95, 2 * (len(outcome.alarms) + 1)) / 2 / months),
    }


def noticed_after(
    detector: Any, stream: Stream, factor: float, runs: int, seed: int = 0, limit: int = 4_000
) -> list[int]:
    """Requests from the beginning of inflated amounts to the alarm, per run; `limit` where there was none."""
    from serving.drift_detector.watch import Watch, WatchConfig
    from serving.drift_detector.windows import Rows

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        start = int(rng.integers(stream.first, len(stream.event_us) - limit - 1_500))
        begin = start + int(rng.integers(1_000, 1_500))
        watch = Watch(detector, WatchConfig(period_s=0))
        watch.add(Rows(stream.event_us[start:begin], table_of(stream.features[start:begin], stream)))
        after = limit
        for step in range(begin, begin + limit, 100):
            part = slice(step, step + 100)
            rows = Rows(stream.event_us[part], table_of(inflated(stream.features[part], factor), stream))
            if any(alarm.kind == "features" for alarm in watch.add(rows).alarms):
                after = step + 100 - begin
                break
        found.append(after)
    return found


def power(detector: Any, stream: Stream, runs: int) -> dict[str, Any]:
    """Share of runs in which amounts up 10 % were noticed within 2,000 requests, with its 95 % lower bound."""
    from scipy.stats import beta

    found = noticed_after(detector, stream, 1.10, runs)
    hits = sum(after <= 2_000 for after in found)
    lower = float(beta.ppf(0.05, hits, runs - hits + 1)) if hits else 0.0
    quantiles = {f"p{level}": float(np.percentile(found, level)) for level in (50, 90, 99)}
    return {"runs": runs, "within_2000": hits / runs, "within_2000_lower_95": lower, "requests": quantiles}


def cost(backend: str) -> dict[str, Any]:
    """CPU milliseconds of one window, per-feature and with the multivariate test, and peak memory, of this process."""
    import resource

    stream = simulated_stream(customers=1_200, days=8)
    detector = detector_of(stream, backend)
    from serving.drift_detector.judgement import Window

    table = table_of(stream.features[stream.first : stream.first + 1_000], stream)
    window = Window(table[:, :-2], table[:, -2], table[:, -1] > 0.5)

    def milliseconds(*, joint: bool, repeats: int) -> float:
        detector.judge(window, joint=joint)
        times = []
        for seed in range(repeats):
            started = time.process_time()
            detector.judge(window, joint=joint, seed=seed)
            times.append(time.process_time() - started)
        return 1e3 * float(np.median(times))

    return {
        "per_feature_ms": milliseconds(joint=False, repeats=9),
        "with_multivariate_ms": milliseconds(joint=True, repeats=5),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rows": len(window),
        "features": window.features.shape[1],
    }


def main() -> int:
    """Print and write every figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__.split("\n")[0])
    parser.add_argument("--cost", choices=BACKENDS, help="only this backend's time and memory, as JSON")
    parser.add_argument("--days", type=int, default=100, help="simulated days without drift (default %(default)s)")
    parser.add_argument("--runs", type=int, default=200, help="runs with drift (default %(default)s)")
    options = parser.parse_args()
    if options.cost:
        print(json.dumps(cost(options.cost)))
        return 0
    one_thread = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    result: dict[str, Any] = {"cost": {}}
    for backend in BACKENDS:
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.drift", f"--cost={backend}"],
            capture_output=True, text=True, check=True, env=one_thread,
        )  # fmt: skip
        result["cost"][backend] = json.loads(run.stdout.splitlines()[-1])
    stream = simulated_stream(customers=5_000, days=options.days)
    detector = detector_of(stream, "streaming")  # p-values are the same, and it is five times as fast
    result["false_alarms"] = false_alarms(detector, stream)
    result["amounts_up_10_percent"] = power(detector, stream, options.runs)
    path = settings().home / "bench" / "drift.json"
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
