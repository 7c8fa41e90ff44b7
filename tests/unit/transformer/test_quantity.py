"""A quantity through the path: figures with an interval, reasons of either sign, and nothing to remember."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import orjson
import pytest

from millrace.installed import load
from serving.protocol import decode_json
from serving.transformer.core import Scored
from serving.transformer.fit import require_fit

TRIPS = load("trips")
FIGURES = tuple(TRIPS.exchange.ANSWER.values())


def trip(number: int, **changes: Any) -> dict[str, Any]:
    base = {"trip_id": number, "event_timestamp": "2021-02-01T08:00:00Z", "pickup_zone": 74, "dropoff_zone": 75}
    return base | {"passenger_count": 1, "trip_distance": 2.5} | changes


def predictor(lab: Any, version: str = "1", outputs: tuple[str, ...] = ("score", "low", "high"), then: str = "") -> Any:
    """Says that a trip takes ten minutes for every mile, give or take five; `asked` has the inputs' names.

    After the first answer it is of version `then`, where one is named.
    """
    versions = iter([version])

    async def answer(asked: Any) -> tuple[int, bytes]:
        length = int(asked.headers["inference-header-content-length"])
        (tensor,) = decode_json(asked.body[:length])["inputs"]
        features = np.frombuffer(asked.body[length:], np.float32).reshape(tensor["shape"])
        minutes = features[:, TRIPS.features.FEATURE_NAMES.index("trip_miles")] * 10
        ends = {"score": minutes, "low": minutes - 5, "high": minutes + 5}
        found = [
            {"name": name, "shape": [len(minutes)], "datatype": "FP32", "data": ends[name].tolist()} for name in outputs
        ]
        said = next(versions, then or version)
        return 200, orjson.dumps({"model_version": said, "parameters": {}, "outputs": found})

    return lab.HTTPServer(answer)


def served(lab: Any, options: Any, *rows: dict[str, Any], model: Any = None, **settings: Any) -> tuple[Any, list[Any]]:
    async def scenario() -> tuple[Any, list[Any]]:
        store = lab.MemoryStore(views=TRIPS.features.VIEWS)
        async with (model or predictor(lab)).running() as champion:
            chosen = options(**settings)
            async with lab.serving(champion.address, chosen, store, "trips") as path:
                reply = await path.predict(*rows)
        return reply, lab.told(chosen)

    return asyncio.run(scenario())


def test_an_answer_has_the_interval_and_no_decision(lab, options):
    reply, _ = served(lab, options, trip(1), trip(2, trip_distance=1.0))

    first, second = reply.document["predictions"]
    assert list(first) == ["trip_id", *FIGURES, "model_version", "reasons", "degraded"]
    assert [first[name] for name in FIGURES] == pytest.approx([25, 20, 30], abs=0.1)
    assert [second[name] for name in FIGURES] == pytest.approx([10, 5, 15], abs=0.1)


def test_reasons_say_what_makes_a_quantity_larger_or_smaller(lab, options):
    reply, _ = served(lab, options, trip(1, trip_distance=20.0), trip(2, trip_distance=0.5))

    long, short = (row["reasons"][0] for row in reply.document["predictions"])
    assert (long["input"], short["input"]) == ("distance", "distance")
    assert long["effect"] > 0 > short["effect"]


def test_another_versions_scores_are_no_reasons(lab, options):
    """During a canary the variants of a request may come to the other revision."""
    reply, _ = served(lab, options, trip(1, trip_distance=20.0), model=predictor(lab, "1", then="2"))

    (answer,) = reply.document["predictions"]
    assert (answer["model_version"], answer["reasons"]) == ("1", [])


def test_an_event_says_the_interval_and_what_was_asked(lab, options):
    _, (event,) = served(lab, options, trip(7, passenger_count=None))

    data = event["data"]
    assert (data["workload"], data["event_id"]) == ("trips", 7)
    assert data["keys"] == {"pickup_zone": "74", "dropoff_zone": "75"}
    assert data["fields"] == {"passenger_count": None, "trip_distance": 2.5}
    assert data["low"] < data["score"] < data["high"]
    assert "decision" not in data


def test_nothing_is_written_for_a_workload_without_recent_events(lab, options, tmp_path):
    served(lab, options, trip(1))

    assert not (tmp_path / "serving").exists()


def test_a_challenger_gets_its_share_of_the_events_where_nobody_is_pseudonymised(lab, options):
    async def scenario() -> Any:
        store = lab.MemoryStore(views=TRIPS.features.VIEWS)
        async with predictor(lab).running() as champion, predictor(lab, "2").running() as challenger:
            settings = options(ab_host=challenger.address, ab_percent=50)
            async with lab.serving(champion.address, settings, store, "trips") as path:
                rows = [trip(number) for number in range(60)]
                return [(await path.predict(*rows)).document["predictions"] for _ in range(2)]

    once, again = asyncio.run(scenario())

    versions = [row["model_version"] for row in once]
    assert 15 < versions.count("2") < 45
    assert versions == [row["model_version"] for row in again]


def test_a_predictor_without_an_interval_is_no_predictor_of_a_quantity(lab, options):
    reply, _ = served(lab, options, trip(1), model=predictor(lab, outputs=("score",)))

    assert reply.status == 503
    assert "it has no high" in reply.document["error"]


def test_a_ranking_without_a_threshold_is_refused():
    from millrace.errors import Unavailable

    with pytest.raises(Unavailable, match="it has no decision_threshold"):
        require_fit(load("fraud"), Scored({"score": np.float32([0.5])}, "1", history_length=4), 4)
