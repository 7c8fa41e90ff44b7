"""Two verbs: `fit` on a reference window gives a `Detector`; `Detector.judge` gives a window's `Judgement`. No I/O.

A judgement says for every feature, the score and the decision (where there are decisions) how far the window is from
the reference, and what of that counts. Features that vary with the hour or the weekend are compared with reference
rows of the window's own hours. What goes in and comes out is `judgement.py`'s, how the tests are computed
`backends.py`'s, what follows from several judgements in a row `episodes.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from serving.drift_detector.backends import Backend
from serving.drift_detector.judgement import (
    AGGREGATE,
    DECISION,
    PER_REQUEST,
    SCORE,
    Comparison,
    Finding,
    Judgement,
    Reference,
    Window,
)
from serving.drift_detector.season import matched_rows, season_bins, seasonal_columns

MOSTLY_MISSING: Final = 0.2
"""A feature missing in more of a window's rows than this is not compared, only counted as missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftConfig:
    """Levels are false-discovery rates of one window; floors are Kolmogorov-Smirnov distances. Chosen by simulation."""

    level: float = 0.004
    """Of every family of tests (per-request features, aggregates, score, decision)."""
    feature_floor: float = 0.05
    aggregate_floor: float = 0.4
    """Aggregates and the score move with the world; only what a broken feed or a broken model does counts."""
    score_floor: float = 0.15
    decision_ratio: float = 3.0
    """The share of reviews must have grown or shrunk by this factor: positives come in bursts, unknown to a test."""
    joint_level: float = 0.01
    joint_rows: int = 400
    """Rows of the window and of the reference in the multivariate test: its cost is quadratic."""
    outlier_share: float = 0.001
    """Share of the reference that counts as outlying."""
    outlier_floor: float = 0.02
    missing_floor: float = 0.05
    """Share of a feature's values that may be missing."""
    seed: int = 0


def fit(reference: Reference, backend: Backend, config: DriftConfig | None = None) -> Detector:
    """Learn what is usual for a model version; raises InvalidInput for a reference with too few or unusable rows."""
    if not np.isfinite(reference.features).all() or not np.isfinite(reference.scores).all():
        raise InvalidInput(f"the reference window of version {reference.model_version} has values that are not finite")
    return Detector(reference, backend, config or DriftConfig())


class Detector:
    """Judges windows of one model version. Not for several threads at once."""

    def __init__(self, reference: Reference, backend: Backend, config: DriftConfig) -> None:
        self.reference = reference
        self.config = config
        self._backend = backend
        review = reference.review(reference.scores)
        answers = (SCORE,) if reference.threshold is None else (SCORE, DECISION)
        self.names = (*reference.names, *answers)
        self._roles = [*(reference.role_of(name) for name in reference.names), *answers]
        self._table = self._columns(reference.features, reference.scores, review)
        self._clock = [reference.names.index(name) for name in (reference.watch.HOUR, reference.watch.WEEKEND)]
        self._bins = season_bins(*(reference.features[:, i] for i in self._clock))
        self.seasonal = seasonal_columns(self._table, self._bins)
        self.seasonal[len(reference.names) :] = True  # the model reads the hour, and labels have theirs
        self._joint = [i for i, role in enumerate(self._roles) if role in (PER_REQUEST, SCORE)]
        self._review_share = float(review.mean())
        self._outliers = backend.outliers(self._judged(self._table), config.outlier_share, config.seed)

    def judge(self, window: Window, *, joint: bool = True, seed: int = 0) -> Judgement:
        """Compare `window` with the reference; `seed` draws the rows of the multivariate test. Raises InvalidInput."""
        self._check(window)
        table = self._columns(window.features, window.scores, window.review)
        missing = np.isnan(table).mean(axis=0)
        usable = missing <= MOSTLY_MISSING
        whole = np.flatnonzero(np.isfinite(table[:, usable]).all(axis=1))
        rng = np.random.default_rng([self.config.seed, seed])
        bins = self._window_bins(window)[whole]
        matched = self._table[matched_rows(self._bins, bins, rng)]
        statistic, p_value = self._compare(table[whole], matched, usable)
        comparisons = self._comparisons(statistic, p_value, missing, self._shift_of_reviews(window))
        mmd = self._joint_test(table[whole], matched, usable, rng) if joint else None
        complete = len(whole) > 0 and usable[: len(self.reference.names)].all()
        outlying = whole[self._outliers(self._judged(table[whole]))] if complete else whole[:0]
        findings = [
            *self._moved(comparisons),
            *self._joint_moved(mmd),
            *self._outlying(len(outlying), len(window)),
            *self._missing(missing),
        ]
        return Judgement(
            model_version=self.reference.model_version,
            rows=len(window),
            comparisons=comparisons,
            joint_statistic=None if mmd is None else mmd[0],
            joint_p_value=None if mmd is None else mmd[1],
            outliers=tuple(int(row) for row in outlying),
            findings=tuple(findings),
        )

    def per_request(self, table: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """[n, F + 2] or [n, C] (default: the reference) → the columns that are tested for small shifts."""
        return (self._table if table is None else table)[:, self._joint]

    def _check(self, window: Window) -> None:
        wanted = len(self.reference.names)
        if window.features.ndim != 2 or window.features.shape[1] != wanted:
            raise InvalidInput(f"the window's features have shape {list(window.features.shape)}; wanted [W, {wanted}]")
        if not len(window) == len(window.scores) == len(window.review):
            raise InvalidInput("features, scores and decisions of the window differ in length")
        if len(window) < 20:
            raise InvalidInput(f"the window has {len(window)} rows; wanted at least 20 to say anything")

    def _window_bins(self, window: Window) -> NDArray[np.int64]:
        return season_bins(*(np.nan_to_num(window.features[:, i]) for i in self._clock))

    def _columns(
        self, features: NDArray[np.float32], scores: NDArray[np.float32], review: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """[W, C] in the order of `names`; a row without a score has no decision."""
        decided = np.where(np.isnan(scores), np.nan, review)
        answers = [scores, decided] if DECISION in self.names else [scores]
        return np.column_stack([features, *answers]).astype(np.float32)

    def _compare(
        self, table: NDArray[np.float32], matched: NDArray[np.float32], usable: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Statistics and p-values [C] of all columns; NaN for the columns that are not usable."""
        statistic, p_value = np.full((2, len(self.names)), np.nan)
        for group, rows in ((~self.seasonal & usable, self._table), (self.seasonal & usable, matched)):
            columns = np.flatnonzero(group)
            if len(columns) == 0 or len(table) == 0:
                continue
            categorical = [place for place, column in enumerate(columns) if self.names[column] == DECISION]
            statistic[columns], p_value[columns] = self._backend.per_feature(
                rows[:, columns], table[:, columns], categorical
            )
        return statistic, p_value

    def _comparisons(
        self,
        statistic: NDArray[np.float64],
        p_value: NDArray[np.float64],
        missing: NDArray[np.float64],
        review_shift: float,
    ) -> tuple[Comparison, ...]:
        floors = {
            PER_REQUEST: self.config.feature_floor,
            AGGREGATE: self.config.aggregate_floor,
            SCORE: self.config.score_floor,
        }
        drifted = np.zeros(len(self.names), bool)
        for role in (PER_REQUEST, AGGREGATE, SCORE, DECISION):
            family = np.flatnonzero([own == role for own in self._roles] & np.isfinite(p_value))
            far = statistic[family] >= floors[role] if role in floors else review_shift >= self.config.decision_ratio
            drifted[family] = discoveries(p_value[family], self.config.level) & far
        return tuple(
            Comparison(name, role, _known(statistic[i]), _known(p_value[i]), bool(drifted[i]), float(missing[i]))
            for i, (name, role) in enumerate(zip(self.names, self._roles, strict=True))
        )

    def _shift_of_reviews(self, window: Window) -> float:
        """By what factor the share of reviews is larger or smaller; a share of nothing counts as one row."""
        share = max(float(window.review.mean()), 1 / len(window))
        usual = max(self._review_share, 1 / len(self._table))
        return max(share / usual, usual / share)

    def _joint_test(
        self,
        table: NDArray[np.float32],
        matched: NDArray[np.float32],
        usable: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> tuple[float, float] | None:
        """Maximum mean discrepancy and its p-value over the per-request features and the score, as normal scores."""
        columns = [column for column in self._joint if usable[column]]
        rows = min(self.config.joint_rows, len(table), len(matched))
        if not columns or rows < 20:
            return None
        samples = [part[rng.choice(len(part), rows, replace=False)][:, columns] for part in (matched, table)]
        reference, window = (_normal_scores(self._table[:, columns], sample) for sample in samples)
        return self._backend.joint(reference, window, int(rng.integers(2**31)))

    def _judged(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        return table[:, [i for i, role in enumerate(self._roles) if role in (PER_REQUEST, AGGREGATE)]]

    def _moved(self, comparisons: Sequence[Comparison]) -> list[Finding]:
        kinds = {PER_REQUEST: "features", AGGREGATE: "aggregates", SCORE: "score", DECISION: "decision"}
        found = []
        for role, kind in kinds.items():
            moved = [item for item in comparisons if item.role == role and item.drifted]
            if not moved:
                continue
            worst = min(moved, key=lambda item: item.p_value or 0.0)
            far = any((item.statistic or 0.0) >= 0.3 for item in moved if role != DECISION)
            names = ", ".join(item.name for item in moved)
            reason = f"{names} moved (most: {worst.name}, distance {worst.statistic:.3g}, p {worst.p_value:.2g})"
            found.append(Finding(kind, tuple(item.name for item in moved), "critical" if far else "warning", reason))
        return found

    def _joint_moved(self, mmd: tuple[float, float] | None) -> list[Finding]:
        if mmd is None or mmd[1] > self.config.joint_level:
            return []
        names = tuple(self.names[column] for column in self._joint)
        return [Finding("joint", names, "warning", f"features moved together (MMD {mmd[0]:.3g}, p {mmd[1]:.2g})")]

    def _outlying(self, count: int, rows: int) -> list[Finding]:
        if count / rows < self.config.outlier_floor:
            return []
        usual = self.config.outlier_share
        return [Finding("outliers", (), "warning", f"{count} of {rows} requests are outlying; {usual:.1%} is usual")]

    def _missing(self, missing: NDArray[np.float64]) -> list[Finding]:
        missing = missing[: len(self.reference.names)]  # a window in a request may come without scores
        gone = np.flatnonzero(missing >= self.config.missing_floor)
        if len(gone) == 0:
            return []
        names = tuple(self.names[i] for i in gone)
        most = float(missing.max())
        severity = "critical" if most > MOSTLY_MISSING else "warning"
        return [Finding("missing", names, severity, f"{', '.join(names)} missing in up to {most:.0%} of requests")]


def discoveries(p_values: NDArray[np.float64], level: float) -> NDArray[np.bool_]:
    """Which of the hypotheses to reject at a false-discovery rate of `level` (Benjamini and Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    if len(p_values) == 0:
        return np.zeros(0, bool)
    adjusted: NDArray[np.float64] = false_discovery_control(np.clip(p_values, 0, 1))
    return adjusted <= level


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _normal_scores(reference: NDArray[np.float32], sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every column by its rank in the reference, as a standard normal: no outlier or unit outweighs the rest."""
    from scipy.special import ndtri

    rows = len(reference)
    ranks = np.column_stack(
        [
            (np.searchsorted(ordered, column, side="left") + np.searchsorted(ordered, column, side="right")) / 2
            for ordered, column in zip(np.sort(reference, axis=0).T, sample.T, strict=True)
        ]
    )
    scores: NDArray[np.float32] = ndtri((ranks + 0.5) / (rows + 1)).astype(np.float32)
    return scores
