"""From a checked request to an answer: states, defaults, order inside a batch, decisions."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from folding import folded

from fraud.features import FEATURE_NAMES, VIEWS
from millrace.appended.records import SLACK, Records
from millrace.errors import ConfigError, Unavailable
from millrace.events.prediction import CHALLENGER, CHAMPION
from millrace.inputs import States
from millrace.installed import load
from millrace.lake.feast_home import DATABASE, Fill, record_fill, repository
from millrace.lake.manifest import Manifest
from millrace.lookup import empty, recent_of, unknown_states
from millrace.reasons import MAX_REASONS, reasons
from serving.transformer import core
from serving.transformer.answers import Door
from serving.transformer.fit import require_fit
from serving.transformer.gather import apart
from serving.transformer.store import require_history_length

N = 4
FRAUD = load("fraud")
DOOR = Door(FRAUD)
CUSTOMERS, TERMINALS = VIEWS
SCORED = core.Scored({"score": np.float32([0.2, 0.9])}, "7", 0.5, N)
PARTS = [core.Part(range(2), SCORED, CHAMPION, "fraud-detector")]


def requests(*ids: int, customer: str = "a", amount: float = 10.0):
    rows = [
        {"transaction_id": id_, "customer_id": customer, "terminal_id": "t", "amount": amount, "event_timestamp": None}
        for id_ in ids
    ]
    found = DOOR.format.from_rows(rows, now_us=1_000_000)
    found.event_us[:] += np.array(ids)  # one after another
    return found


def unknown(rows: int) -> States:
    return unknown_states(VIEWS, rows)


def prepare(found, states):
    return core.prepare(FRAUD, found, found.keys, states, N)


def after(prepared) -> States:
    """What the store says once the entries of a request have been appended."""
    state = folded(empty(CUSTOMERS), prepared.entries, N + SLACK)
    return States({CUSTOMERS.name: [state]}, unknown(1).refreshed)


def counted(prepared) -> list[float]:
    return prepared.inputs[0][:, FEATURE_NAMES.index("customer_history_count")].tolist()


def test_unknown_entities_get_defaults_and_are_not_degraded():
    prepared = prepare(requests(1), unknown(1))

    assert counted(prepared) == [0]
    assert prepared.inputs[1].sum() == 0
    assert prepared.degraded is False


def test_without_an_answer_of_the_store_the_rows_are_degraded_and_still_see_each_other():
    prepared = prepare(requests(1, 2), None)

    assert prepared.degraded is True
    assert counted(prepared) == [0, 1]
    assert [entry.event_id for entry in prepared.entries] == [1, 2]


def test_rows_of_one_customer_in_one_request_see_each_other():
    prepared = prepare(requests(1, 2, 3), unknown(3))

    assert counted(prepared) == [0, 1, 2]
    assert [entry.event_id for entry in prepared.entries] == [1, 2, 3]


def test_a_transaction_scored_before_leaves_no_second_trace():
    first = prepare(requests(1, 2), unknown(2))

    again = prepare(requests(1), after(first))

    assert again.entries == []
    assert counted(again) == [0]
    np.testing.assert_array_equal(again.inputs[0][0], first.inputs[0][0])


def test_feasts_row_and_what_was_appended_make_one_history():
    stored = {"transaction_ids": [1, 2], "event_us": [5, 6], "amount_cents": [100, 300], "terminal_risk": [0.0, 0.0]}
    recent = recent_of({name: [values] for name, values in stored.items()}, CUSTOMERS)
    entry = prepare(requests(3), unknown(1)).entries[0]
    records = Records(CUSTOMERS, N)
    response = States(
        {CUSTOMERS.name: [records.served(*recent, records.of(entry, 1), Fill("x"))]}, unknown(1).refreshed
    )

    prepared = prepare(requests(4, amount=8.0), response)

    assert counted(prepared) == [3]
    assert prepared.inputs[1][0, :, 0].tolist() == [0, 1, 3, 10]


def test_decisions_follow_the_threshold_that_came_with_the_scores():
    rows = DOOR.answers(requests(1, 2), PARTS, {1: [{"input": "amount", "effect": 0.3}]}, degraded=False)

    assert [row["decision"] for row in rows] == ["approve", "review"]
    assert core.explained_rows(SCORED) == [1]
    assert rows[1] == {
        "transaction_id": 2,
        "score": pytest.approx(0.9),
        "decision": "review",
        "model_version": "7",
        "reasons": [{"input": "amount", "effect": 0.3}],
        "degraded": False,
    }


def test_rows_of_two_models_are_answered_in_the_order_of_the_request():
    other = core.Scored({"score": np.float32([0.6])}, "8", 0.7, N)
    parts = [core.Part([1], other, CHALLENGER, "b"), core.Part([0, 2], SCORED, CHAMPION, "a")]

    rows = DOOR.answers(requests(1, 2, 3), parts, {}, degraded=False)

    assert [row["transaction_id"] for row in rows] == [1, 2, 3]
    assert [row["model_version"] for row in rows] == ["7", "8", "7"]
    assert [row["decision"] for row in rows] == ["approve", "approve", "review"]


def test_rows_of_two_models_that_were_scored_together_go_back_to_their_requests():
    prepared = prepare(requests(1, 2, 3), unknown(3))
    other = core.Scored({"score": np.float32([0.6])}, "8", 0.7, N, ("cheap",))
    mine = core.Scored({"score": np.float32([0.2, 0.9])}, "7", 0.5, N, ("full", "cheap"))
    parts = [core.Part([1], other, CHALLENGER, "b"), core.Part([0, 2], mine, CHAMPION, "a")]

    (first, of_first), (second, of_second) = apart(prepared, parts, [2, 1])

    assert [(part.arm, part.rows) for part in of_first] == [(CHALLENGER, [1]), (CHAMPION, [0])]
    assert [part.scored.scores.tolist() for part in of_first] == [[pytest.approx(0.6)], [pytest.approx(0.2)]]
    assert [(part.arm, part.rows, part.scored.stages) for part in of_second] == [(CHAMPION, [0], ["cheap"])]
    assert of_second[0].scored.scores.tolist() == pytest.approx([0.9])
    assert [len(found.inputs[0]) for found in (first, second)] == [2, 1]
    assert counted(second) == [2]


def test_reasons_compare_each_flagged_row_with_its_own_variants():
    found = requests(1, 2, amount=10.0)
    prepared = prepare(found, unknown(2))

    features, history = core.explain_inputs(FRAUD, found, prepared, [1], N)
    why = core.explain(FRAUD, [0.9], [1], np.float32([0.1, 0.9, 0.9, 0.9]))

    assert (len(features), history.shape[1]) == (4, N)
    assert why == {1: [{"input": "amount", "effect": 0.8}]}


def test_the_strongest_reason_comes_first_and_small_or_opposite_effects_are_left_out():
    found = reasons(FRAUD, 0.9, np.float32([0.5, 0.9, 0.2, 0.95]))

    assert found == [{"input": "terminal_history", "effect": 0.7}, {"input": "amount", "effect": 0.4}]


def test_there_are_never_more_than_a_few_reasons():
    assert len(reasons(FRAUD, 1.0, np.zeros(len(FRAUD.explain.GROUPS), np.float32))) == MAX_REASONS


def test_v2_tensors_hold_what_v1_says():
    rows = DOOR.answers(requests(1, 2), PARTS, {}, degraded=True)

    answer = DOOR.tensors(rows)

    assert {name: spec for name, (spec, _) in answer.outputs.items()} == {s.name: s.datatype for s in DOOR.outputs}
    assert answer.outputs["degraded"][1].tolist() == [True, True]
    assert json.loads(answer.outputs["reasons"][1][0]) == []
    assert answer.model_version == "7"


@pytest.mark.parametrize("document", [{}, {"outputs": []}, {"outputs": [{"name": "score", "data": "x"}]}])
def test_an_answer_that_is_no_score_is_the_predictors_failure(document):
    with pytest.raises(Unavailable, match="is not a score"):
        core.scored_from(document)


def test_a_model_that_decides_nothing_and_reads_no_history_sends_no_parameters():
    document = {"model_version": "3", "outputs": [{"name": name, "data": [12.5]} for name in ("score", "low", "high")]}

    scored = core.scored_from(document)

    assert scored.model_version == "3"
    assert (scored.decision_threshold, scored.history_length) == (None, None)
    assert scored.outputs["low"].tolist() == [12.5]


def test_features_of_another_length_than_the_models_are_refused():
    require_fit(FRAUD, SCORED, N)

    with pytest.raises(Unavailable, match="is 5; model version 7 was trained with 4"):
        require_fit(FRAUD, SCORED, N + 1)


def test_a_generation_of_another_length_is_not_opened(tmp_path):
    repo = repository(tmp_path, "fraud", "served")
    require_history_length(tmp_path, FRAUD, repo, N)  # nothing known
    repo.mkdir(parents=True)
    with closing(sqlite3.connect(repo / DATABASE)) as connection, connection:
        record_fill(connection, Fill("abc"))
    require_history_length(tmp_path, FRAUD, repo, N)  # filled, without its lake
    folder = tmp_path / "lake" / "online" / "abc"
    folder.mkdir(parents=True)
    facts = {"history_length": N}
    Manifest(kind="online_store", id="abc", workload="fraud", uri=str(folder), facts=facts).write(
        folder / "manifest.json"
    )
    require_history_length(tmp_path, FRAUD, repo, N)

    with pytest.raises(ConfigError, match=r"MILLRACE_HISTORY_LENGTH is 5; .* filled with 4"):
        require_history_length(tmp_path, FRAUD, repo, N + 1)
