"""A/B test and shadow: a customer stays with an arm, and neither can slow or fail the champion's answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from serving.transformer import shadow
from serving.transformer.assignment import bucket, challenged
from serving.transformer.predictor import PredictorClient

NAMES = [f"{number:016x}" for number in range(20_000)]


def run(scenario):
    return asyncio.run(scenario)


@given(st.text(max_size=40), st.binary(max_size=100), st.floats(0, 100), st.floats(0, 100))
def test_assignment_is_stable_and_monotone_in_the_percentage(name, key, one, other):
    low, high = sorted((one, other))

    assert 0 <= bucket(name, key) < 100
    assert bucket(name, key) == bucket(name, key)
    assert challenged(name, high, key) or not challenged(name, low, key)
    assert not challenged(name, 0, key)
    assert challenged(name, 100, key)


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_the_split_is_the_percentage(percent):
    share = sum(challenged(name, percent, b"key") for name in NAMES) / len(NAMES)

    # Five standard deviations of a binomial share.
    assert abs(share - percent / 100) < 5 * (percent / 100 * (1 - percent / 100) / len(NAMES)) ** 0.5


def test_another_key_is_another_split():
    both = sum(challenged(name, 50, b"one") and challenged(name, 50, b"other") for name in NAMES)

    assert both / len(NAMES) == pytest.approx(0.25, abs=0.02)


def test_each_row_is_scored_by_its_customers_arm_and_the_events_say_which(lab, options):
    async def scenario():
        async with (
            lab.predictor("1", 0.1).running() as champion,
            lab.predictor("2", 0.9).running() as challenger,
        ):
            settings = options(
                ab_host=f"http://{challenger.address}/v2/models/other/infer",
                ab_percent=50,
            )
            async with lab.serving(champion.address, settings) as path:
                rows = [lab.transaction(number, customer=f"c{number}") for number in range(40)]
                replies = [await path.predict(*rows), await path.predict(*rows)]
        return [reply.document["predictions"] for reply in replies], lab.told(settings), challenger

    (first, again), events, challenger = run(scenario())

    versions = [row["model_version"] for row in first]
    assert versions == [row["model_version"] for row in again]
    assert {"1", "2"} == set(versions)
    assert [row["transaction_id"] for row in first] == list(range(40))
    by_id = {event["data"]["event_id"]: event for event in events}
    for row in first:
        event = by_id[row["transaction_id"]]
        arm = {"1": ("champion", "fraud-detector"), "2": ("challenger", "other")}[row["model_version"]]
        assert (event["data"]["arm"], event["data"]["model_name"]) == arm
        assert event["source"] == f"/millrace/{arm[1]}"
        assert event["data"]["score"] == pytest.approx(row["score"])
    assert challenger.asked[0].path == "/v2/models/other/infer"


@pytest.mark.parametrize("ails", ["fails", "hangs", "wants other features"])
def test_the_champion_answers_for_a_challenger_that_cannot(lab, options, ails):
    async def answer(asked):
        if ails == "hangs":
            await asyncio.sleep(3600)
        return (500, b"no") if ails == "fails" else (200, lab.scores_for(asked, "2", 0.9, history_length=99))

    async def scenario():
        async with lab.predictor("1", 0.1).running() as champion, lab.HTTPServer(answer).running() as challenger:
            settings = options(ab_host=challenger.address, ab_percent=100, deadline_ms=400)
            async with lab.serving(champion.address, settings) as path:
                return await path.predict(lab.transaction(1), lab.transaction(2))

    before = lab.metric("millrace_challenger_fallbacks_total")
    reply = run(scenario())

    assert [row["model_version"] for row in reply.document["predictions"]] == ["1", "1"]
    assert lab.metric("millrace_challenger_fallbacks_total") - before == 2


def test_the_shadow_scores_what_the_champion_scored_and_decides_nothing(lab, options):
    async def scenario():
        async with (
            lab.predictor("1", 0.1).running() as champion,
            lab.predictor("2", 0.9).running() as other,
        ):
            settings = options(shadow_url=f"http://{other.address}/v1/models/next:predict")
            async with lab.serving(champion.address, settings) as path:
                replies = [await path.predict(lab.transaction(number), x_request_id=f"r{number}") for number in (1, 2)]
                await lab.until("events", lambda: len(lab.told(settings)) == 4)
        return replies, lab.told(settings), other

    replies, events, other = run(scenario())

    assert {reply.document["predictions"][0]["model_version"] for reply in replies} == {"1"}
    found = {event["id"]: event["data"] for event in events}
    assert sorted(found) == ["r1:0", "r1:0:shadow", "r2:0", "r2:0:shadow"]
    said, shadowed = found["r2:0"], found["r2:0:shadow"]
    assert (shadowed["arm"], shadowed["model_name"], shadowed["model_version"]) == ("shadow", "next", "2")
    assert (shadowed["decision"], said["decision"]) == ("review", "approve")
    assert shadowed["features"] == said["features"]
    assert other.asked[0].path == "/v2/models/next/infer"


def test_a_shadow_that_hangs_or_fails_is_never_waited_for_and_its_queue_is_bounded(lab, options, monkeypatch):
    monkeypatch.setattr(shadow, "MAX_WAITING_ROWS", 4)
    monkeypatch.setattr("serving.transformer.model.FLUSH_S", 0.1)

    async def hangs(_):
        await asyncio.sleep(3600)

    async def scenario():
        async with (
            lab.predictor().running() as champion,
            lab.HTTPServer(hangs).running() as other,
            lab.serving(champion.address, options(shadow_url=other.address)) as path,
        ):
            return [(await path.predict(lab.transaction(number))).status for number in range(20)]

    before = lab.metric("millrace_shadow_dropped_total")
    statuses = run(scenario())

    assert statuses == [200] * 20
    assert lab.metric("millrace_shadow_dropped_total") - before == 16


def test_what_the_shadow_fails_at_is_counted_and_the_next_is_tried(lab, options):
    statuses = [500, 200]

    async def answer(asked):
        return statuses.pop(0), lab.scores_for(asked, "2", 0.9)

    async def scenario():
        async with (
            lab.predictor().running() as champion,
            lab.HTTPServer(answer).running() as other,
            lab.serving(champion.address, options(shadow_url=other.address)) as path,
        ):
            for number in (1, 2):
                await path.predict(lab.transaction(number))
                await lab.until("the shadow", lambda number=number: len(other.asked) == number)

    before = lab.metric("millrace_shadow_failures_total")
    run(scenario())

    assert lab.metric("millrace_shadow_failures_total") - before == 1
    assert statuses == []


def test_half_an_ab_test_stops_the_start(lab, options):
    for half in ({"ab_host": "127.0.0.1:1"}, {"ab_percent": 10}):
        with pytest.raises(ConfigError, match="wanted both or none"):
            run(lab.serving("127.0.0.1:1", options(**half)).__aenter__())


@pytest.mark.parametrize(
    ("address", "host", "port", "model"),
    [
        ("p", "p", 80, "m"),
        ("p.ns.svc:8080", "p.ns.svc", 8080, "m"),
        ("http://p:1/v2/models/a/infer", "p", 1, "a"),
        ("http://p/v1/models/a:predict", "p", 80, "a"),
    ],
)
def test_addresses_of_predictors(address, host, port, model):
    client = PredictorClient(address, "m")

    assert (client._calls.host, client._calls.port, client.model_name) == (host, port, model)


@pytest.mark.parametrize("address", ["", "https://p", "http://p/elsewhere", "p:port", "p:1/x y"])
def test_what_is_no_address_of_a_predictor_is_refused(address):
    with pytest.raises(ConfigError, match="wanted host:port"):
        PredictorClient(address, "m")
