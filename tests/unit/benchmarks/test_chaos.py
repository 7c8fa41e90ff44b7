"""The audit behind `make chaos` finds what it is there to find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chaos.audit import Findings, judge_log, wrong_with
from benchmarks.chaos.load import Asked
from benchmarks.chaos.report import Report
from millrace.events.log import engine, migrate, write_predictions
from millrace.inputs import RecentEvents, recent
from millrace.installed import load
from millrace.pseudonyms import pseudonym
from millrace.settings import Settings

KEPT = 3
SENT = {11: 100, 12: 200, 13: 300, 14: 400}
"""Event id → time in microseconds."""


def state(*ids: int, times: dict[int, int] = SENT) -> RecentEvents:
    return recent(np.array(ids, np.int64), np.array([times[id_] for id_ in ids], np.int64))


@pytest.mark.parametrize(
    ("found", "acknowledged"),
    [
        (state(12, 13, 14), [11, 12, 13, 14]),  # the oldest has made room
        (state(11, 12), [11, 12]),
        (state(11, 12), [12]),  # what was never acknowledged may be there
        (state(), []),
    ],
)
def test_a_state_of_the_newest_acknowledged_events_is_right(found, acknowledged):
    assert wrong_with(found, SENT, {id_: SENT[id_] for id_ in acknowledged}, KEPT) == ""


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (state(11), "absent: [12]"),
        (state(11, 13, 14), "absent: [12]"),  # newer than the oldest that is kept
        (state(11, 12, 12), "twice: [12]"),
        (state(12, 11), "out of order"),
        (state(11, 99, times=SENT | {99: 150}), "nobody sent, or at another time: [99]"),
        (state(11, 12, times={11: 100, 12: 250}), "nobody sent, or at another time: [12]"),
    ],
)
def test_a_state_that_lost_or_mixed_up_events_is_found(found, words):
    acknowledged = {id_: SENT[id_] for id_ in (11, 12)}

    assert words in wrong_with(found, SENT, acknowledged, KEPT)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    here = Settings(home=tmp_path)
    here.prediction_log.mkdir()
    migrate(engine(here))
    return here


@pytest.fixture
def logged(home: Settings) -> Callable[..., None]:
    """`logged("a:0", request_id="a")` writes a row of `ASKED` into the log, changed."""

    def write(prediction_id: str, **changes: Any) -> None:
        row = {
            "prediction_id": prediction_id,
            "request_id": "a",
            "scored_at": datetime.now(UTC),
            "workload": "fraud",
            "event_id": 11,
            "keys": {"customer_id": pseudonym("596", home.pseudonym_secret()), "terminal_id": "3156"},
            "score": 0.5,
            "arm": "champion",
        }
        write_predictions(engine(home), [row | changes])

    return write


def answered(home: Settings) -> Findings:
    """What the audit finds of one acknowledged request of one row."""
    row = {"transaction_id": 11, "event_timestamp": "2026-11-30T00:00:00Z"} | load("fraud").exchange.EXAMPLE
    found = Findings()
    judge_log(home, load("fraud"), [Asked("a", "envoy", [row], 0.0, answered_at=1.0, scores=[0.5])], found)
    return found


def test_an_answer_that_is_in_the_log_once_is_right(home, logged):
    logged("a:0")
    logged("a:0:shadow", arm="shadow")

    assert answered(home) == Findings()


def test_an_answer_that_the_log_lacks_or_has_twice_is_found(home, logged):
    nothing = answered(home)
    logged("a:0")
    logged("a:1")

    assert len(nothing.missing) == 1
    assert len(answered(home).twice) == 1


def test_an_answer_that_is_logged_under_another_entity_or_score_is_found(home, logged):
    logged("a:0", keys={"customer_id": "0123456789abcdef", "terminal_id": "3156"}, score=0.6)

    found = answered(home)

    assert (len(found.other_entity), len(found.other_score)) == (1, 1)


@pytest.mark.parametrize(
    "found",
    [
        Findings(missing=[(Asked("a", "envoy", [], 0.0), 0)]),
        Findings(twice=[(Asked("a", "envoy", [], 0.0), 0)]),
        Findings(states_wrong={"one": "events are out of order"}),
        Findings(chain="line 3"),
    ],
)
def test_a_run_that_lost_something_is_not_whole(found):
    report = Report(1, [], Counter(), {}, found)

    assert not report.whole
    assert Report(1, [], Counter(), {}, Findings()).whole
