"""The judging protocol of card-fraud detection: which rows count, and how well scores rank them.

Rows and scores in, figures out; no I/O. The protocol is the published one: rows of cards already known to be
compromised are dropped, then AUC ROC, average precision and card precision@k (per day, cards ranked by their highest
score, cards caught on an earlier day removed). No figure depends on the order of rows. Statistics take card weights,
which is how `millrace.judge.bootstrap` puts intervals around them; calibration is in `millrace.judge.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import InvalidInput, SchemaMismatch

DAY_US: Final = 86_400_000_000
TEST_DAYS: Final = 7
KNOWN_FRAUD_DAYS: Final = 14
"""Frauds this many days before the test week are looked at for known cards: 7 of training, 7 of label delay."""
ROW_COLUMNS: Final = ("event_timestamp", "customer_id", "is_fraud", "label_timestamp")
"""What the protocol reads. Money figures also need `amount_cents`, and are NaN without it."""

CHUNK: Final = 16
"""Resamples at a time."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows that count, as arrays of N; cards are numbered in the order of their ids."""

    card: NDArray[np.int64]  # [N] in [0, cards)
    day: NDArray[np.int64]  # [N] days since 1970
    label: NDArray[np.bool_]  # [N]
    amount: Floats  # [N] currency units
    cards: int

    def __len__(self) -> int:
        return len(self.card)

    def where(self, mask: Mask) -> Judged:
        """The rows under `mask`; card numbers stay, so that weights still fit."""
        return Judged(self.card[mask], self.day[mask], self.label[mask], self.amount[mask], self.cards)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolMetrics:
    """The three published figures of one test week, and what they stand on. A figure that does not exist is NaN."""

    auc_roc: float
    average_precision: float
    card_precision: float
    k: int
    rows: int
    frauds: int
    cards: int
    compromised_cards: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def drop_known_cards(rows: pa.Table, test_start: date) -> Mask:
    """mask[N]: labelled rows of the test week whose card is not yet known to be compromised.

    `rows` must hold, besides the test week, the frauds of the 14 days before it. A card is known on a test day when one
    of its frauds, at most 14 days before the test week, had its label before that day began: the published
    `get_train_test_set` with 7 training days and 7 days of delay, whatever the training window really was.
    """
    event_us, label_us, fraud, labelled = _columns(rows)
    start_us = _start_us(test_start)
    testing = labelled & (event_us >= start_us) & (event_us < start_us + TEST_DAYS * DAY_US)
    card, cards = _card_numbers(rows)
    known_from = np.full(cards, np.iinfo(np.int64).max)
    revealing = fraud & (event_us >= start_us - KNOWN_FRAUD_DAYS * DAY_US)
    np.minimum.at(known_from, card[revealing], label_us[revealing])
    day_start = event_us - event_us % DAY_US
    return testing & ~(known_from[card] < day_start)


def judged(rows: pa.Table, mask: Mask) -> Judged:
    """The rows under `mask` as arrays."""
    rows = rows.filter(pa.array(mask))
    event_us, _, fraud, _ = _columns(rows)
    card, cards = _card_numbers(rows)
    return Judged(card, event_us // DAY_US, fraud, _amounts(rows), cards)


def protocol_metrics(rows: pa.Table, scores: NDArray[Any], test_start: date, k: int = 100) -> ProtocolMetrics:
    """The protocol's figures of one fold.

    `rows[N]` with ROW_COLUMNS: the test week and the frauds of the 14 days before it. `scores[N]` on any scale;
    those outside the test week are not read. Raises InvalidInput for scores that are missing where they count.
    """
    scores = _scores(scores, rows.num_rows)
    mask = drop_known_cards(rows, test_start)
    return judged_metrics(judged(rows, mask), scores[mask], k)


def judged_metrics(rows: Judged, scores: Floats, k: int = 100) -> ProtocolMetrics:
    """The protocol's figures of rows already judged; raises InvalidInput for a score that is not finite."""
    scores = _scores(scores, len(rows))
    if not np.isfinite(scores).all():
        raise InvalidInput(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite. Score every row."
        )
    return ProtocolMetrics(
        auc_roc=roc_auc(rows, scores).item(),
        average_precision=average_precision(rows, scores).item(),
        card_precision=card_precision(rows, scores, k).item(),
        k=k,
        rows=len(rows),
        frauds=int(rows.label.sum()),
        cards=len(np.unique(rows.card)),
        compromised_cards=len(np.unique(rows.card[rows.label])),
    )


def mean_metrics(folds: Iterable[ProtocolMetrics]) -> dict[str, float]:
    """Mean of each figure over folds; raises InvalidInput for no folds."""
    folds = tuple(folds)
    if not folds:
        raise InvalidInput("no folds to average. Run the backtest with at least one week.")
    names = ("auc_roc", "average_precision", "card_precision")
    return {name: math.fsum(getattr(fold, name) for fold in folds) / len(folds) for name in names}


# Statistics. `weights[B, cards]`, or None for one plain evaluation; each returns an array [B].


def average_precision(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Area under the precision-recall steps, equal scores taken together; NaN without a fraud. [B] in [0, 1]."""
    order, end = _descending(scores)
    label = rows.label[order]
    frauds = np.flatnonzero(label)

    def statistic(weight: Floats) -> Floats:
        flagged = weight.cumsum(axis=1)[:, end[frauds]]
        caught = np.concatenate([np.zeros((len(weight), 1)), weight[:, frauds].cumsum(axis=1)], axis=1)
        at_end = caught[:, np.searchsorted(frauds, end[frauds], side="right")]
        precision = np.divide(at_end, flagged, out=np.zeros_like(flagged), where=flagged > 0)
        return ratio((weight[:, frauds] * precision).sum(axis=1), caught[:, -1])

    return _by_chunk(rows, order, weights, statistic)


def roc_auc(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Chance that a fraud scores above a genuine row, ties counting half; NaN unless both exist. [B] in [0, 1]."""
    order, end = _descending(scores)
    label = rows.label[order]
    frauds = np.flatnonzero(label)
    start = np.searchsorted(end, frauds_end := end[frauds], side="left")

    def statistic(weight: Floats) -> Floats:
        genuine = np.concatenate([np.zeros((len(weight), 1)), (weight * ~label).cumsum(axis=1)], axis=1)
        total = genuine[:, -1:]
        above, not_below = genuine[:, start], genuine[:, frauds_end + 1]
        fraud = weight[:, frauds]
        won = (fraud * (total - (above + not_below) / 2)).sum(axis=1)
        return ratio(won, fraud.sum(axis=1) * total[:, 0])

    return _by_chunk(rows, order, weights, statistic)


@dataclass(frozen=True, slots=True)
class Review:
    """What reviewing the top k cards of every day brings; arrays [B], amounts in currency units."""

    card_precision: Floats  # mean over days of compromised cards among the k, divided by k
    caught_amount: Floats  # fraud on cards on the day they are caught, and after it, when they are blocked
    missed_amount: Floats  # every other fraud
    reviews: Floats  # cards looked at


def review(rows: Judged, scores: Floats, k: int, weights: Floats | None = None) -> Review:
    """Play the days: rank cards by highest score, look at the top k, block those with a fraud that day.

    A card of weight w stands for w cards and takes as many of the k places. Equal scores are ranked by card, which
    knows nothing of the label. Raises InvalidInput for k < 1.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; wanted at least 1 card a day")
    weights = np.ones((1, rows.cards)) if weights is None else weights
    open_share = np.ones_like(weights)  # the part of each card not caught yet
    days = np.unique(rows.day)
    hits, missed, looked_at = (np.zeros(len(weights)) for _ in range(3))
    for day in days:
        card, fraud, amount = _cards_by_score(rows, scores, day)
        weight = weights[:, card] * open_share[:, card]
        places = np.clip(k - (weight.cumsum(axis=1) - weight), 0, weight)
        share = np.divide(places, weight, out=np.zeros_like(weight), where=weight > 0)
        hits += (places * fraud).sum(axis=1)
        looked_at += places.sum(axis=1)
        missed += ((weight - places) * amount).sum(axis=1)
        open_share[:, card] *= 1 - share * fraud
    total = weights @ np.bincount(rows.card, rows.amount * rows.label, rows.cards)
    precision = hits / (k * len(days)) if len(days) else np.full(len(weights), np.nan)
    return Review(precision, total - missed, missed, looked_at)


def card_precision(rows: Judged, scores: Floats, k: int = 100, weights: Floats | None = None) -> Floats:
    """Compromised cards among the day's top k, divided by k; mean over days. [B] in [0, 1]."""
    return review(rows, scores, k, weights).card_precision


def cost_ratio(outcome: Review, review_cost: float) -> Floats:
    """(missed fraud + reviews × review_cost) / all fraud, in money: 1 is what doing nothing costs. [B] ≥ 0."""
    spent = outcome.missed_amount + outcome.reviews * review_cost
    return ratio(spent, outcome.missed_amount + outcome.caught_amount)


def caught_share(outcome: Review) -> Floats:
    """Caught fraud / all fraud, in money. [B] in [0, 1]."""
    return ratio(outcome.caught_amount, outcome.missed_amount + outcome.caught_amount)


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Element-wise quotient; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: Floats = np.where(bottom > 0, top / bottom, np.nan)
    return quotient


def _by_chunk(
    rows: Judged, order: NDArray[np.int64], weights: Floats | None, statistic: Callable[[Floats], Floats]
) -> Floats:
    """Apply `statistic` to row weights in score order, a few resamples at a time to stay in the cache."""
    if weights is None:
        return statistic(np.ones((1, len(rows))))
    card = rows.card[order]
    parts = [statistic(weights[start : start + CHUNK, card]) for start in range(0, len(weights), CHUNK)]
    return np.concatenate(parts) if parts else np.empty(0)


def _descending(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions from the highest score down, and for each place the last place with an equal score."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True)) if len(scores) else order
    return order, last[np.searchsorted(last, np.arange(len(scores)))]


def _cards_by_score(rows: Judged, scores: Floats, day: int) -> tuple[NDArray[np.int64], Mask, Floats]:
    """The day's cards from the highest score down: number, whether compromised that day, fraud amount that day."""
    today = np.flatnonzero(rows.day == day)
    order = today[np.lexsort((-scores[today], rows.card[today]))]
    card, first = np.unique(rows.card[order], return_index=True)
    frauds = np.add.reduceat(rows.label[order].astype(np.int64), first)
    amount = np.add.reduceat(rows.amount[order] * rows.label[order], first)
    by_score = np.lexsort((card, -scores[order[first]]))
    return card[by_score], frauds[by_score] > 0, amount[by_score]


def _scores(scores: NDArray[Any], rows: int) -> Floats:
    scores = np.asarray(scores)
    if scores.shape != (rows,):
        raise InvalidInput(f"scores have shape {list(scores.shape)}; wanted one for each of {rows} rows")
    return scores.astype(np.float64)


def _columns(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask, Mask]:
    """event_us, label_us (the end of time when not known), fraud, labelled; each [N]."""
    missing = [name for name in ROW_COLUMNS if name not in rows.column_names]
    if missing:
        raise SchemaMismatch(f"rows lack {missing}; they have {rows.column_names}. Judge rows of a training set.")
    end_of_time = np.iinfo(np.int64).max
    event_us = rows["event_timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    label_us = rows["label_timestamp"].cast(pa.timestamp("us")).cast(pa.int64()).fill_null(end_of_time).to_numpy()
    label = rows["is_fraud"].cast(pa.int8()).fill_null(-1).to_numpy()
    return event_us, label_us, label == 1, label >= 0


def _card_numbers(rows: pa.Table) -> tuple[NDArray[np.int64], int]:
    """[N] numbers of cards, counted in the order of their ids, and how many cards there are."""
    encoded = rows["customer_id"].combine_chunks().dictionary_encode()
    ids = encoded.dictionary.to_pylist()
    place = np.empty(len(ids), np.int64)
    place[np.argsort(np.array(ids, dtype=object), kind="stable")] = np.arange(len(ids))
    return place[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)], len(ids)


def _amounts(rows: pa.Table) -> Floats:
    if "amount_cents" not in rows.column_names:
        return np.full(rows.num_rows, np.nan)
    amounts: Floats = rows["amount_cents"].to_numpy() / 100.0
    return amounts


def _start_us(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_US
