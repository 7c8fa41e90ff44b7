"""The store down, slow, empty or unknowing; deadlines; a predictor that fails: an answer in time, or a clear no."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from serving.transformer import breaker
from serving.transformer.breaker import Breaker


def run(scenario):
    return asyncio.run(scenario)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    found = Breaker(clock)
    for _ in range(breaker.FAILURES):
        found.failed(ConnectionError("down"))
    return found


def test_the_breaker_opens_after_failures_in_a_row_only(lab):
    clock = Clock()
    found = Breaker(clock)
    for _ in range(3):
        for _ in range(breaker.FAILURES - 1):
            found.failed(TimeoutError())
        found.succeeded()

    assert not found.open
    assert opened(clock).open
    assert lab.metric("millrace_breaker_open") == 1


def test_an_open_breaker_lets_one_probe_through_and_closes_when_it_succeeds(lab):
    clock = Clock()
    found = opened(clock)

    assert not found.allows()
    clock.now = breaker.FIRST_PAUSE_S
    assert [found.allows() for _ in range(5)] == [True, False, False, False, False]
    found.succeeded()

    assert found.allows()
    assert lab.metric("millrace_breaker_open") == 0


def test_the_pause_doubles_with_each_failed_probe_and_not_with_lookups_that_began_earlier():
    clock = Clock()
    found = opened(clock)
    for _ in range(20):
        found.failed(TimeoutError())  # on their way when it opened

    pauses = []
    for _ in range(8):
        began = clock.now
        while not found.allows():
            clock.now += 0.5
        pauses.append(clock.now - began)
        found.failed(TimeoutError())

    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_that_never_reports_does_not_keep_the_breaker_open():
    clock = Clock()
    found = opened(clock)
    clock.now = 10.0

    assert found.allows()
    clock.now = 20.0
    assert found.allows()


def test_a_store_that_is_down_degrades_answers_and_is_soon_not_asked(lab, options):
    store = lab.MemoryStore(fails=ConnectionError("down"))
    before = lab.metric("millrace_lookup_failures_total")

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            replies = [await path.predict(lab.transaction(number)) for number in range(20)]
            asked = store.reads
            store.fails, path.model._breaker._clock = None, lambda: time.monotonic() + 60
            healed = await path.predict(lab.transaction(99))
        return replies, asked, healed

    replies, asked, healed = run(scenario())

    assert all(reply.document["predictions"][0]["degraded"] for reply in replies)
    assert asked == breaker.FAILURES
    assert lab.metric("millrace_lookup_failures_total") - before == breaker.FAILURES
    assert healed.document["predictions"][0]["degraded"] is False


def test_a_store_that_hangs_costs_the_lookup_timeout_until_the_breaker_opens(lab, options):
    gate = threading.Event()
    store = lab.MemoryStore(gate=lambda: gate.wait(60))
    before = lab.metric("millrace_lookup_failures_total")

    async def scenario():
        took = []
        settings = options(lookup_timeout_s=0.2)
        async with lab.predictor().running() as model, lab.serving(model.address, settings, store) as path:
            for number in range(breaker.FAILURES + 3):
                began = time.perf_counter()
                reply = await path.predict(lab.transaction(number))
                took.append(time.perf_counter() - began)
                assert reply.document["predictions"][0]["degraded"] is True
            gate.set()
        return took

    took = run(scenario())

    assert min(took[: breaker.FAILURES]) >= 0.19  # lookup_timeout_s is 0.2
    assert lab.metric("millrace_lookup_failures_total") - before == breaker.FAILURES


def test_an_unknown_customer_or_terminal_is_answered_from_defaults_and_not_degraded(lab, options):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction())

    assert run(scenario()).document["predictions"][0]["degraded"] is False


def test_degraded_answers_are_counted_by_model_version(lab, options):
    async def scenario():
        store = lab.MemoryStore(fails=ConnectionError())
        async with lab.predictor("17").running() as model, lab.serving(model.address, options(), store) as path:
            await path.predict(lab.transaction(1), lab.transaction(2))

    run(scenario())

    labels = {"model_name": "fraud-detector", "model_version": "17", "decision": "approve", "degraded": "True"}
    assert lab.metric("millrace_predictions_total", **labels) == 2


def test_a_slow_store_leaves_half_of_the_deadline_to_the_predictor(lab, options):
    gate = threading.Event()
    store = lab.MemoryStore(gate=lambda: gate.wait(60))

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            began = time.perf_counter()
            reply = await path.predict(lab.transaction(), x_deadline_ms="3000")
            took = time.perf_counter() - began
            gate.set()
        return reply, took

    reply, took = run(scenario())

    assert reply.status == 200
    assert reply.document["predictions"][0]["degraded"] is True
    assert took > 1.4


@pytest.mark.parametrize(
    ("header", "setting", "names"), [("60", 5000, "60 ms"), (None, 60, "60 ms"), ("0", 60, "0 ms")]
)
def test_past_its_deadline_a_request_gets_504_and_leaves_no_trace(lab, options, header, setting, names):
    async def hangs(_):
        await asyncio.sleep(3600)

    async def scenario():
        async with (
            lab.HTTPServer(hangs).running() as model,
            lab.serving(model.address, options(deadline_ms=setting), store) as path,
        ):
            headers = {"x_deadline_ms": header} if header else {}
            return await path.predict(lab.transaction(), **headers), path.model._turns

    store = lab.MemoryStore()
    reply, turns = run(scenario())

    assert reply.status == 504
    assert f"no answer within {names}" in reply.document["error"]
    assert "x-request-id" in reply.headers
    assert (store.appended, len(turns)) == ([], 0)


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "", "9" * 40])
def test_a_deadline_that_is_no_number_is_refused(lab, options, text):
    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction(), x_deadline_ms=text)

    reply = run(scenario())

    assert reply.status == 400
    assert "x-deadline-ms" in reply.document["error"]


def test_waiting_for_a_customers_turn_counts_against_the_deadline(lab, options):
    release = None

    async def answer(asked):
        await release.wait()
        return 200, lab.scores_for(asked, "1", 0.1)

    async def scenario():
        nonlocal release
        release = asyncio.Event()
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            first = asyncio.create_task(path.predict(lab.transaction(1)))
            await lab.until("the first", lambda: model.asked)
            second = await path.predict(lab.transaction(2), x_deadline_ms="50")
            release.set()
            return await first, second, await path.predict(lab.transaction(3))

    first, second, third = run(scenario())

    assert (first.status, second.status, third.status) == (200, 504, 200)


def test_a_failing_predictor_is_asked_again_at_the_previous_revision(lab, options):
    async def answer(asked):
        if asked.headers.get("knative-serving-tag") == "prev":
            return 200, lab.scores_for(asked, "1", 0.1)
        return 500, b"canary"

    async def scenario():
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction()), model

    before = lab.metric("millrace_predictor_failures_total")
    reply, model = run(scenario())

    assert reply.document["predictions"][0]["model_version"] == "1"
    assert len(model.asked) == 2
    assert lab.metric("millrace_predictor_failures_total") - before == 1


def test_a_predictor_that_hangs_is_asked_again_within_the_deadline(lab, options):
    async def answer(asked):
        if "knative-serving-tag" not in asked.headers:
            await asyncio.sleep(3600)
        return 200, lab.scores_for(asked, "1", 0.1)

    async def scenario():
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction(), x_deadline_ms="400")

    assert run(scenario()).status == 200


def faults(lab, version: str) -> float:
    return lab.metric("millrace_model_faults_total", model_name=lab.NAME, model_version=version)


UNSOUND = {
    "rows": lambda asked, lab: lab.scores_for(asked, "2", 0.1).replace(b"[0.1]", b"[0.1,0.2]"),
    "range": lambda asked, lab: lab.scores_for(asked, "2", 1.5),
    "features": lambda asked, lab: lab.scores_for(asked, "2", 0.1, history_length=lab.N + 1),
    "outputs": lambda asked, lab: lab.scores_for(asked, "2", 0.1).replace(b'"decision_threshold":0.5,', b""),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_an_answer_that_is_none_is_asked_for_again_and_counts_against_the_version_that_gave_it(lab, options, kind):
    async def answer(asked):
        if asked.headers.get("knative-serving-tag") == "prev":
            return 200, lab.scores_for(asked, "1", 0.1)
        return 200, UNSOUND[kind](asked, lab)

    async def scenario():
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction())

    before = {version: faults(lab, version) for version in "12"}
    reply = run(scenario())

    assert (reply.status, reply.document["predictions"][0]["model_version"]) == (200, "1")
    assert faults(lab, "2") - before["2"] == 1
    assert faults(lab, "1") == before["1"]


@pytest.mark.parametrize("status", [500, 503, 429, 400, 404])
def test_a_predictor_that_stays_away_is_503_after_a_second_try(lab, options, status):
    async def answer(_):
        return status, b"no"

    async def scenario():
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction()), len(model.asked)

    reply, asked = run(scenario())

    assert (reply.status, asked) == (503, 2)
    assert reply.headers["retry-after"] == "1"


def test_another_number_of_scores_than_rows_is_the_predictors_failure(lab, options):
    async def answer(asked):
        return 200, lab.scores_for(asked, "1", 0.1).replace(b"[0.1]", b"[0.1,0.2]")

    async def scenario():
        async with lab.HTTPServer(answer).running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction())

    assert run(scenario()).status == 503


def test_reasons_that_cannot_be_had_in_time_are_left_out(lab, options):
    async def answer(asked):
        if len(model_asked) > 1:
            await asyncio.sleep(3600)
        return 200, lab.scores_for(asked, "1", 0.9)

    model_asked: list = []

    async def scenario():
        server = lab.HTTPServer(answer)
        server.asked = model_asked
        async with server.running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction(), x_deadline_ms="300")

    reply = run(scenario())

    assert reply.status == 200
    assert (reply.document["predictions"][0]["decision"], reply.document["predictions"][0]["reasons"]) == ("review", [])
