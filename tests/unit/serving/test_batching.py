"""Batches of the predictor: who is scored with whom, and what a wrong request does to the others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from millrace.errors import InvalidInput, ModelFault
from millrace.registry.model_artifact import STAGES, ModelArtifact
from serving.lean import error_reply
from serving.predictor.batching import Batcher, Overloaded
from serving.predictor.cache import ScoreCache
from serving.predictor.core import Answer, Inputs, Scorer

F, C, L, N = len(FEATURE_NAMES), len(HISTORY_CHANNELS), 8, 64


class Recorder(Scorer):
    """A scorer that remembers the size of each run, and can be told to be slow or to fail."""

    def __init__(self, artifact: ModelArtifact) -> None:
        super().__init__(artifact, "1")
        self.runs: list[int] = []
        self.threads: set[str] = set()
        self.gate: threading.Event | None = None
        self.poison: float | None = None

    def run(self, *inputs: np.ndarray) -> Answer:
        features = inputs[0]
        self.runs.append(len(features))
        self.threads.add(threading.current_thread().name)
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.poison is not None and (features == self.poison).any():
            raise RuntimeError("the graph fails on this row")
        return super().run(*inputs)


@pytest.fixture
def scorer(tiny_model) -> Recorder:
    return Recorder(ModelArtifact.open(tiny_model()))


def row(value: float = 1.0, rows: int = 1, steps: int = L) -> Inputs:
    return np.full((rows, F), value, np.float32), np.full((rows, steps, C), value, np.float32)


def slow(batcher: Batcher) -> Batcher:
    """As if the graph took long, so that it runs in the thread."""
    batcher._expected_s = [0.02] * len(batcher._expected_s)
    return batcher


def together(batcher: Batcher, *requests: Inputs) -> list[Any]:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(batcher.score(*one) for one in requests), return_exceptions=True)

    return asyncio.run(ask())


def test_requests_that_arrive_together_are_one_run_and_each_gets_its_own_scores(scorer):
    requests = [row(float(value), rows) for value, rows in ((10, 1), (20, 3), (30, 2))]

    answers = together(Batcher(scorer), *requests)

    assert scorer.runs == [6]
    for (features, history), (outputs, stages) in zip(requests, answers, strict=True):
        np.testing.assert_allclose(outputs["score"], scorer.artifact.score(features, history), rtol=1e-6)
        assert [STAGES[stage] for stage in stages] == ["full"] * len(features)


def test_histories_of_different_lengths_share_a_batch(scorer):
    short, longer = row(5.0, steps=L), row(5.0, steps=N)

    answers = together(Batcher(scorer), short, longer)

    assert scorer.runs == [2]
    assert answers[0][0]["score"] == pytest.approx(answers[1][0]["score"])


def test_a_lone_request_waits_for_nobody_and_needs_no_thread(scorer):
    ((outputs, _),) = together(Batcher(scorer), row())

    assert len(outputs["score"]) == 1
    assert scorer.threads == {threading.main_thread().name}


def test_what_arrives_during_a_run_becomes_the_next_batch(scorer):
    batcher = slow(Batcher(scorer))
    scorer.gate = threading.Event()

    async def story() -> list[Answer]:
        first = asyncio.create_task(batcher.score(*row(1.0)))
        while not scorer.runs:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.score(*row(float(value)))) for value in range(2, 7)]
        await asyncio.sleep(0)
        assert batcher.waiting_rows == 5
        scorer.gate.set()
        return await asyncio.gather(first, *others)

    answers = asyncio.run(story())

    assert scorer.runs == [1, 5]
    assert len({float(outputs["score"][0]) for outputs, _ in answers}) == 6
    assert threading.main_thread().name not in scorer.threads


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (row(float("nan")), "features holds nan in row 0"),
        ((row()[0], row(float("inf"))[1]), "history holds inf in row 0"),
        (row(steps=L - 1), "history has 7 steps; wanted 8 to 64"),
        ((row()[0][:, 1:], row()[1]), "tensor 'features' is float32"),
        ((row()[0].astype(np.float64), row()[1]), "tensor 'features' is float64"),
        ((row(rows=2)[0], row()[1]), "features has 2 rows and history 1"),
    ],
)
def test_a_wrong_request_fails_alone(scorer, wrong, message):
    good, bad, also_good = together(Batcher(scorer), row(1.0), wrong, row(2.0))

    assert len(good[0]["score"]) == len(also_good[0]["score"]) == 1
    assert isinstance(bad, InvalidInput)
    assert message in str(bad)
    assert scorer.runs == [2]


def test_a_request_that_fails_the_graph_fails_alone(scorer):
    scorer.poison = 13.0

    good, bad, also_good = together(Batcher(scorer), row(1.0), row(13.0), row(2.0))

    assert isinstance(bad, RuntimeError)
    assert len(good[0]["score"]) == len(also_good[0]["score"]) == 1
    assert scorer.runs == [3, 1, 1, 1]


@pytest.mark.parametrize(("score", "fault"), [(np.nan, "not finite"), (np.inf, "not finite"), (1.5, "outside [0, 1]")])
def test_a_score_that_is_none_fails_its_request_alone_and_counts_against_the_model(tiny_model, score, fault):
    class Overflowing(Scorer):
        def run(self, features, history):
            outputs, stages = super().run(features, history)
            outputs["score"][features[:, 0] == 13.0] = score
            return outputs, stages

    good, bad = together(Batcher(Overflowing(ModelArtifact.open(tiny_model()), "1")), row(1.0), row(13.0))

    assert np.isfinite(good[0]["score"]).all()
    assert isinstance(bad, ModelFault)
    assert fault in str(bad)
    assert error_reply(bad).status == 500


def test_scores_of_another_number_than_rows_are_nobodys_and_are_told_apart_one_by_one(tiny_model):
    class Misshapen(Scorer):
        def run(self, features, history):
            outputs, stages = super().run(features, history)
            more = np.concatenate([outputs["score"], np.float32([0.5])])
            return {"score": more if 13.0 in features[:, 0] else outputs["score"]}, stages

    good, bad = together(Batcher(Misshapen(ModelArtifact.open(tiny_model()), "1")), row(1.0), row(13.0))

    assert good[0]["score"].shape == (1,)
    assert isinstance(bad, ModelFault)
    assert "score of shape [2] for 1 rows" in str(bad)


def test_batches_are_bounded_in_rows_and_a_large_request_is_a_batch_of_its_own(scorer):
    together(Batcher(scorer, batch_rows=4), *(row(rows=rows) for rows in (3, 1, 1, 9, 2)))

    assert scorer.runs == [4, 1, 9, 2]


def test_batches_are_bounded_in_expected_milliseconds(scorer):
    batcher = Batcher(scorer, batch_rows=64, batch_run_ms=5.0)
    batcher._expected_s = [0.0, 0.0001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064]

    together(batcher, *(row() for _ in range(10)))

    assert max(scorer.runs) == 7
    assert sum(scorer.runs) == 10


def test_one_row_a_batch_is_no_batching(scorer):
    together(Batcher(scorer, batch_rows=1), *(row() for _ in range(3)))

    assert scorer.runs == [1, 1, 1]


def test_a_full_queue_says_so_and_recovers(scorer):
    batcher = Batcher(scorer, queue_rows=4)

    taken, also, refused = together(batcher, row(rows=3), row(), row())

    assert len(taken[0]["score"]) == 3
    assert len(also[0]["score"]) == 1
    assert isinstance(refused, Overloaded)
    assert "4 rows wait for the model" in str(refused)
    assert len(together(batcher, row())[0][0]["score"]) == 1


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(scorer):
    assert len(together(Batcher(scorer, queue_rows=4), row(rows=9))[0][0]["score"]) == 9


def test_who_has_gone_is_not_scored(scorer):
    batcher = slow(Batcher(scorer))
    scorer.gate = threading.Event()

    async def story() -> None:
        first = asyncio.create_task(batcher.score(*row(1.0)))
        while not scorer.runs:
            await asyncio.sleep(0.001)
        gone, stays = (asyncio.create_task(batcher.score(*row(2.0))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        scorer.gate.set()
        await asyncio.gather(first, stays)

    asyncio.run(story())

    assert scorer.runs == [1, 1]
    assert batcher.waiting_rows == 0


def test_an_identical_request_is_answered_from_the_cache(scorer):
    batcher = Batcher(scorer, cache=ScoreCache(60.0, 100))

    ((outputs, _),) = together(batcher, row(3.0, 2))
    ((again, stages),) = together(batcher, row(3.0, 2))
    together(batcher, row(3.0, 1))

    assert again["score"] == pytest.approx(outputs["score"])
    assert [STAGES[stage] for stage in stages] == ["cache"] * 2
    assert scorer.runs == [2, 1]


def test_only_what_the_model_reads_makes_requests_differ(scorer):
    batcher = Batcher(scorer, cache=ScoreCache(60.0, 100))
    features, history = row(3.0, steps=N)
    together(batcher, (features, history))
    older, newer = history.copy(), history.copy()
    older[0, 0, 0], newer[0, -1, 0] = 99.0, 99.0

    together(batcher, (features, older), (features, newer))

    assert scorer.runs == [1, 1]


def test_the_cache_forgets_with_time_and_past_its_size():
    now = [0.0]
    cache = ScoreCache(10.0, 5, clock=lambda: now[0])
    keys = [cache.key(*row(float(value), 2)) for value in range(4)]
    for key in keys[:3]:
        cache.put(key, {"score": np.zeros(2, np.float32)})

    assert len(cache) == 4
    assert [cache.get(key) is not None for key in keys] == [False, True, True, False]
    now[0] = 10.0
    assert cache.get(keys[2]) is None
    cache.put(keys[3], {"score": np.zeros(2, np.float32)})
    assert len(cache) == 2


def test_a_failed_request_is_not_cached(scorer):
    batcher = Batcher(scorer, cache=ScoreCache(60.0, 100))
    scorer.poison = 13.0

    first = together(batcher, row(13.0))
    scorer.poison = None
    second = together(batcher, row(13.0))

    assert isinstance(first[0], RuntimeError)
    assert len(second[0][0]["score"]) == 1


def test_a_full_queue_is_a_503_that_says_when_to_come_again():
    reply = error_reply(Overloaded("9 rows wait for the model; wanted at most 4"))

    assert reply.status == 503
    assert (b"retry-after", b"1") in reply.headers


def test_a_lone_request_is_answered_before_the_loop_turns(scorer):
    batcher = Batcher(scorer, alone=lambda: True)

    async def story() -> int:
        turns = 0

        def count() -> None:
            nonlocal turns
            turns += 1

        asyncio.get_running_loop().call_soon(count)
        await batcher.score(*row())
        return turns

    assert asyncio.run(story()) == 0
