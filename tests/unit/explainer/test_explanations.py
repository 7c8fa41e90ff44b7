"""Explanations add up to the score, blame only what the model reads, and show the history as it was."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import orjson
import pytest

from fraud.features import FEATURE_NAMES, VIEWS
from millrace.errors import InvalidInput
from millrace.inputs import Requests, States
from millrace.installed import load
from millrace.lookup import empty, unknown_states
from millrace.pseudonyms import pseudonym
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings
from serving.explainer.core import Background, Event, Lengths, history_of, value_function
from serving.explainer.model import Explainer, shapley
from serving.lean import LeanRoutes

CUSTOMERS, TERMINALS = VIEWS
FRAUD = load("fraud")
INPUTS = tuple(part.name for part in FRAUD.explain.INPUTS)
N, L = 4, 2
DAY_US = 86_400_000_000
NOW_US = 17_800 * DAY_US + 13 * 3_600_000_000
PATH = "/v1/models/fraud-detector:explain"


@pytest.fixture(scope="module")
def background() -> Background:
    """200 reference rows of plausible shape."""
    random = np.random.default_rng(0)
    columns = {name: random.random(200, np.float32) for name in FEATURE_NAMES}
    columns["amount"] = (random.random(200) * 100).round(2).astype(np.float32)
    return Background.of(columns | {"score": random.random(200, np.float32)}, FEATURE_NAMES)


@pytest.fixture(scope="module")
def artifacts(tiny_model) -> dict[bool, ModelArtifact]:
    """A model that reads everything, and one that reads amounts only."""
    options = {"sequence_length": L, "history_length": N}
    return {
        every: ModelArtifact.open(tiny_model(f"explained-{every}", every_input=every, **options))
        for every in (True, False)
    }


def state(count: int):
    found = empty(CUSTOMERS)
    for number in range(1, count + 1):
        found = found.append(number, NOW_US - (count + 1 - number) * DAY_US, (1000 * number, 0.25), 32)
    return found


def transaction(amount_cents: int = 25_000, history: int = 3) -> Event:
    terminal = np.arange(len(TERMINALS.fields), dtype=np.int64)
    keys, values = {"customer": ["c"], "terminal": ["t"]}, {"amount": np.array([amount_cents])}
    requests = Requests(np.array([99]), np.array([NOW_US]), keys, values)
    return Event(requests, States({CUSTOMERS.name: [state(history)]}, {TERMINALS.name: terminal[None]}))


def inputs_of(found: Event):
    return FRAUD.online.model_inputs(found.requests, found.states, history_length=N, sequence_length=L)


def explained(found: Event, background: Background, model: ModelArtifact):
    return shapley(value_function(FRAUD, found, background, model.score, Lengths(N, L)), len(INPUTS))


@pytest.mark.parametrize(("amount_cents", "history"), [(0, 0), (100, 1), (25_000, 3), (90_000, 9)])
def test_the_effects_add_up_to_the_score_that_the_model_gives(artifacts, background, amount_cents, history):
    model, found = artifacts[True], transaction(amount_cents, history)

    effects, base = explained(found, background, model)

    assert base + effects.sum() == pytest.approx(float(model.score(*inputs_of(found))[0]), abs=1e-6)
    assert 0 <= base <= 1


def test_what_the_model_does_not_read_has_no_effect(artifacts, background):
    effects, _ = explained(transaction(), background, artifacts[False])

    named = dict(zip(INPUTS, effects, strict=True))
    assert (named["time"], named["terminal"]) == pytest.approx((0, 0), abs=1e-7)
    assert named["amount"] > 0.1
    assert named["customer_history"] > 0


def test_the_background_has_no_effect_on_itself(artifacts, background):
    """A row of the background, of a customer nobody knows, explained against itself alone."""
    alone = Background(background.features[:1])
    found = transaction(round(float(alone.features[0, FEATURE_NAMES.index("amount")]) * 100), history=0)
    model = artifacts[False]

    effects, base = explained(found, alone, model)

    assert effects == pytest.approx(np.zeros(4), abs=1e-6)
    assert base == pytest.approx(float(model.score(*inputs_of(found))[0]), abs=1e-6)


def test_the_background_is_spread_over_the_scores():
    columns = {name: np.arange(1000, dtype=np.float32) for name in (*FEATURE_NAMES, "score")}

    rows = Background.of(columns, FEATURE_NAMES, rows=5).features[:, 0]

    assert rows.tolist() == [0, 250, 500, 749, 999]


def test_the_history_is_shown_as_it_was():
    assert history_of(FRAUD, transaction(history=2)) == [
        {"transaction_id": 1, "event_timestamp": "2018-09-24T13:00:00Z", "amount": 10.0, "terminal_risk": 0.25},
        {"transaction_id": 2, "event_timestamp": "2018-09-25T13:00:00Z", "amount": 20.0, "terminal_risk": 0.25},
    ]


class Store:
    """Knows the customer `c` with `count` transactions, and no terminal."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.count = 3

    def read(self, keys):
        if self.fails:
            raise self.fails
        states = unknown_states(VIEWS, len(keys["customer"]))
        for row, name in enumerate(keys["customer"]):
            if name == pseudonym("c", b"key"):
                states.recent[CUSTOMERS.name][row] = state(self.count)
        return states


@pytest.fixture
def service(artifacts, background, tmp_path) -> SimpleNamespace:
    store = Store()
    options = Settings(home=tmp_path, history_length=N, pseudonym_key="key")
    model = Explainer("fraud-detector", artifacts[True], "7", background, store, options)
    app = LeanRoutes({PATH: model.answer}, behind=None)

    def post(document):
        sent = []

        async def receive():
            return {"type": "http.request", "body": orjson.dumps(document)}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": []}
        asyncio.run(app(scope, receive, send))
        return sent[0]["status"], orjson.loads(sent[1]["body"])

    return SimpleNamespace(store=store, model=model, post=post)


def row(**changes):
    base = {"transaction_id": 99, "customer_id": "c", "terminal_id": "t", "amount": 250.0}
    return base | {"event_timestamp": "2018-09-26T13:00:00Z"} | changes


def test_a_transaction_is_explained_in_the_fields_words(service):
    status, answer = service.post({"instances": [row(), row(transaction_id=2)]})

    first, known = answer["explanations"]
    assert status == 200
    assert first["model_version"] == "7"
    assert {item["input"] for item in first["attributions"]} == set(INPUTS)
    effects = [item["effect"] for item in first["attributions"]]
    assert [abs(effect) for effect in effects] == sorted((abs(effect) for effect in effects), reverse=True)
    assert first["score"] == pytest.approx(first["base_score"] + sum(effects))
    assert [item["transaction_id"] for item in first["history"]] == [1, 2, 3]
    assert [item["transaction_id"] for item in known["history"]] == [1]  # scored before, shown as it was then
    assert next(item["value"] for item in first["attributions"] if item["input"] == "amount") == 250.0


def test_a_history_longer_than_the_model_sees_is_cut(service):
    service.store.count = 9

    _, answer = service.post({"instances": [row()]})

    assert [item["transaction_id"] for item in answer["explanations"][0]["history"]] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"instances": [row(amount=-1)]}, "field 'amount'"),
        ({"instances": []}, "no rows"),
        ({"instances": [row(transaction_id=number) for number in range(33)]}, "at most 32"),
        ({}, "'instances' is missing"),
    ],
)
def test_a_wrong_request_is_refused(service, document, message):
    status, answer = service.post(document)

    assert (status, message in answer["error"]) == (400, True), answer


def test_without_the_store_there_is_no_explanation(service):
    service.store.fails = ConnectionError("down")

    status, answer = service.post({"instances": [row()]})

    assert (status, "no states" in answer["error"]) == (503, True)


def test_predictions_are_not_the_explainers(service):
    with pytest.raises(InvalidInput, match="ask for :explain here"):
        asyncio.run(service.model.answer_v1({}, {}))
