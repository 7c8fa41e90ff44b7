"""Events of the future are refused, trials leave no trace, and an answer says who has never been seen."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from millrace.inputs import States
from millrace.installed import load
from millrace.lookup import unknown_states
from serving.transformer.core import unseen_entities


def run(scenario):
    return asyncio.run(scenario)


def ahead(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_events_of_the_future_are_refused_by_name_and_the_next_answer_is_as_before(lab, options):
    """Who lets them in has a history of them alone, for good."""
    store = lab.MemoryStore()

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            first = await path.predict(lab.transaction(1))
            refused = [
                await path.predict(lab.transaction(2 + at), lab.transaction(500 + at, event_timestamp=when))
                for at, when in enumerate(["2199-01-01T00:00:00Z", ahead(400)])
            ]
            return first, refused, await path.predict(lab.transaction(3, event_timestamp=ahead(200)))

    first, refused, near = run(scenario())

    assert [reply.status for reply in refused] == [400, 400]
    for reply in refused:
        assert "row 1: field 'event_timestamp' is 2" in reply.document["error"]
        assert "wanted at most 300 s after now" in reply.document["error"]
        assert "MILLRACE_FUTURE_TOLERANCE_S" in reply.document["error"]
    assert (first.status, near.status) == (200, 200)
    assert [entry.event_id for entry in store.appended] == [1, 3]


def test_how_far_ahead_an_event_may_be_is_a_setting(lab, options):
    async def scenario():
        settings = options(future_tolerance_s=3600.0)
        async with lab.predictor().running() as model, lab.serving(model.address, settings) as path:
            return await path.predict(lab.transaction(1, event_timestamp=ahead(1800)))

    assert run(scenario()).status == 200


def test_an_answer_says_who_has_never_been_seen_and_the_share_is_a_metric(lab, options):
    store = lab.MemoryStore()
    read = store.read

    def without_terminal_x(keys):
        found = read(keys)
        found.unseen["terminal_state"] = [key == "x" for key in keys["terminal"]]
        return found

    store.read = without_terminal_x
    before = {name: lab.metric("millrace_unseen_total", entity=name) for name in ("customer", "terminal")}

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options(), store) as path:
            new = await path.predict(lab.transaction(1), lab.transaction(2, terminal_id="x"))
            known = await path.predict(lab.transaction(3))
            store.fails = ConnectionError("down")
            degraded = await path.predict(lab.transaction(4, customer="other"))
            return new, known, degraded

    new, known, degraded = run(scenario())

    assert [row.get("unseen") for row in new.document["predictions"]] == [["customer"], ["terminal"]]
    assert "unseen" not in known.document["predictions"][0]
    assert "unseen" not in degraded.document["predictions"][0]
    after = {name: lab.metric("millrace_unseen_total", entity=name) for name in before}
    assert {name: after[name] - before[name] for name in before} == {"customer": 1, "terminal": 1}


def test_who_an_entity_is_that_was_never_seen_follows_from_all_its_views():
    trips = load("trips")
    views = trips.features.VIEWS
    nobody = {view.name: np.array([True, view.entity == views[0].entity]) for view in views}
    states = unknown_states(views, 2)

    found = unseen_entities(trips, States(states.recent, states.refreshed, nobody), 2)

    named = [view.entity for view in views if not trips.entity(view.entity).constant]
    assert found == [list(dict.fromkeys(named)), [name for name in dict.fromkeys(named) if name == views[0].entity]]


def test_a_trial_is_scored_told_as_such_and_changes_nothing(lab, options):
    store, settings = lab.MemoryStore(), options()
    labels = {"model_name": lab.NAME, "model_version": "trial", "decision": "approve", "degraded": "False"}

    async def scenario():
        async with lab.predictor("trial").running() as model, lab.serving(model.address, settings, store) as path:
            trial = await path.predict(lab.transaction(1), x_millrace_dry_run="true ")
            real = await path.predict(lab.transaction(1), x_millrace_dry_run="False")
            return trial, real

    trial, real = run(scenario())

    assert (trial.status, real.status) == (200, 200)
    assert trial.document["predictions"][0]["score"] == real.document["predictions"][0]["score"]
    assert [entry.event_id for entry in store.appended] == [1]
    assert [event["data"].get("dry_run", False) for event in lab.told(settings)] == [True, False]
    assert lab.metric("millrace_predictions_total", **labels) == 1


@pytest.mark.parametrize("text", ["yes", "1", "", "truee"])
def test_a_mark_of_a_trial_that_is_none_is_refused(lab, options, text):
    """Otherwise a trial with a typing error would change a state."""

    async def scenario():
        async with lab.predictor().running() as model, lab.serving(model.address, options()) as path:
            return await path.predict(lab.transaction(), x_millrace_dry_run=text)

    reply = run(scenario())

    assert reply.status == 400
    assert "x-millrace-dry-run" in reply.document["error"]
