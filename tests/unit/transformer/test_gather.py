"""Requests that come while others are scored go on together, and each gets its own answer."""

from __future__ import annotations

import asyncio

import pytest

from serving.protocol import decode_json


def run(scenario):
    return asyncio.run(scenario)


class HeldPredictor:
    """Scores a row by its amount once `open` is set; notes how many rows each call brought."""

    def __init__(self, lab) -> None:
        self.rows: list[int] = []
        self.lab = lab
        self.open = asyncio.Event()
        self.fails: set[int] = set()

    async def __call__(self, asked):
        length = int(asked.headers["inference-header-content-length"])
        document = decode_json(asked.body[:length])
        features = self.lab.tensor(document, asked.body[length:])
        self.rows.append(len(features))
        await self.open.wait()
        if len(features) in self.fails:
            return 500, b"no"
        return 200, self.lab.scores_of(features)


@pytest.fixture
def held(lab):
    import numpy as np
    import orjson

    from fraud.features import FEATURE_NAMES

    def tensor(document, body):
        shape = document["inputs"][0]["shape"]
        return np.frombuffer(body, np.float32, shape[0] * shape[1]).reshape(shape)

    def scores_of(features):
        scores = (features[:, FEATURE_NAMES.index("amount")] / 1000).tolist()
        output = {"name": "score", "shape": [len(scores)], "datatype": "FP32", "data": scores}
        parameters = {"decision_threshold": 0.5, "history_length": lab.N}
        return orjson.dumps({"model_version": "1", "parameters": parameters, "outputs": [output]})

    lab.tensor, lab.scores_of = tensor, scores_of
    return lambda: HeldPredictor(lab)


def test_those_who_wait_go_together_and_each_gets_its_own_score(lab, options, held):
    store = lab.MemoryStore()

    async def scenario():
        predictor = held()
        async with lab.HTTPServer(predictor).running() as model, lab.serving(model.address, options(), store) as path:
            rows = [lab.transaction(number, customer=f"c{number}", amount=float(number)) for number in range(1, 11)]
            asked = [asyncio.create_task(path.predict(row)) for row in rows[:8]]
            asked.append(asyncio.create_task(path.predict(*rows[8:])))
            await lab.until("two under way", lambda: len(predictor.rows) == 2)
            predictor.open.set()
            return await asyncio.gather(*asked), predictor.rows

    replies, calls = run(scenario())

    answers = [row for reply in replies for row in reply.document["predictions"]]
    assert [(row["transaction_id"], round(row["score"] * 1000)) for row in answers] == [(n, n) for n in range(1, 11)]
    assert [row["unseen"] for row in answers] == [["customer"]] * 10
    assert calls == [1, 1, 8]
    assert sorted(entry.event_id for entry in store.appended) == list(range(1, 11))


def test_two_requests_of_one_entity_that_go_together_see_each_other_in_their_order(lab, options, held):
    store = lab.MemoryStore()

    async def scenario():
        predictor = held()
        async with lab.HTTPServer(predictor).running() as model, lab.serving(model.address, options(), store) as path:
            first = [asyncio.create_task(path.predict(lab.transaction(n, customer=f"c{n}"))) for n in (1, 2)]
            await lab.until("two under way", lambda: len(predictor.rows) == 2)
            twice = [asyncio.create_task(path.predict(lab.transaction(n, customer="same"))) for n in (3, 4, 3)]
            await asyncio.sleep(0)
            predictor.open.set()
            return await asyncio.gather(*first, *twice)

    replies = run(scenario())

    unseen = [reply.document["predictions"][0].get("unseen") for reply in replies[2:]]
    assert unseen == [["customer"], None, None]
    assert sorted(entry.event_id for entry in store.appended) == [1, 2, 3, 4]


def test_what_fails_together_is_tried_apart_so_that_nobody_pays_for_another(lab, options, held):
    async def scenario():
        predictor = held()
        predictor.fails = {3}
        async with lab.HTTPServer(predictor).running() as model, lab.serving(model.address, options()) as path:
            asked = [asyncio.create_task(path.predict(lab.transaction(n, customer=f"c{n}"))) for n in range(5)]
            await lab.until("two under way", lambda: len(predictor.rows) == 2)
            predictor.open.set()
            return await asyncio.gather(*asked), predictor.rows

    replies, calls = run(scenario())

    assert [reply.status for reply in replies] == [200] * 5
    assert calls == [1, 1, 3, 3, 1, 1, 1]  # a call that fails is made once more at the revision before


@pytest.mark.parametrize(
    "own", [{"x_deadline_ms": "900"}, {"ce_id": "mine"}, {"x_millrace_dry_run": "true"}, {"traceparent": "00-1-1-01"}]
)
def test_who_asks_for_something_of_its_own_waits_for_nobody(lab, options, held, own):
    async def scenario():
        predictor = held()
        async with lab.HTTPServer(predictor).running() as model, lab.serving(model.address, options()) as path:
            asked = [asyncio.create_task(path.predict(lab.transaction(n, customer=f"c{n}"))) for n in (1, 2, 3)]
            asked.append(asyncio.create_task(path.predict(lab.transaction(4, customer="c4"), **own)))
            await lab.until("three under way", lambda: len(predictor.rows) == 3)
            predictor.open.set()
            await asyncio.gather(*asked)
            return predictor.rows

    assert run(scenario()) == [1, 1, 1, 1]


def test_a_request_that_is_given_up_while_it_waits_is_not_scored(lab, options, held):
    store = lab.MemoryStore()

    async def scenario():
        predictor = held()
        async with lab.HTTPServer(predictor).running() as model, lab.serving(model.address, options(), store) as path:
            asked = [asyncio.create_task(path.predict(lab.transaction(n, customer=f"c{n}"))) for n in (1, 2, 3)]
            await lab.until("two under way", lambda: len(predictor.rows) == 2)
            asked[2].cancel()
            await asyncio.sleep(0)
            predictor.open.set()
            await asyncio.gather(*asked[:2])
            return predictor.rows

    assert run(scenario()) == [1, 1]
    assert sorted(entry.event_id for entry in store.appended) == [1, 2]
