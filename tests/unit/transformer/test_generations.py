"""Two revisions that read different generations of state behind one split: each gets inputs made for it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from millrace.errors import NotFound
from millrace.installed import load
from serving.calls import Response
from serving.lean import error_reply
from serving.protocol import decode_json
from serving.reads import OTHER_STATE, OtherState, Reads, place_of
from serving.transformer import held as module
from serving.transformer import wiring
from serving.transformer.held import Generations
from serving.transformer.predictor import _scored

FRAUD = load("fraud")


class Split:
    """Stands for the split behind the transformer: `reading` is what the revision that is hit next reads.

    With `Knative-Serving-Tag: prev` it is the revision that was rolled out before, which reads `stable`.
    """

    def __init__(self, lab: Any, stable: str) -> None:
        self.lab, self.stable, self.reading = lab, stable, stable
        self.took: list[tuple[str, list[str]]] = []

    async def __call__(self, asked: Any) -> tuple[int, bytes]:
        reading = self.stable if asked.headers.get("knative-serving-tag") == "prev" else self.reading
        named = [name for name in asked.headers["x-millrace-states"].split(",") if name]
        if reading not in named:
            return OTHER_STATE, orjson.dumps({"error": "other", **Reads("", reading).as_parameters()})
        length = int(asked.headers["inference-header-content-length"])
        tensors = [item["name"] for item in decode_json(asked.body[:length])["inputs"]]
        self.took.append((reading, tensors))
        document = orjson.loads(self.lab.scores_for(asked, reading, 0.25))
        document["parameters"] |= Reads("", reading).as_parameters()
        return 200, orjson.dumps(document)


@pytest.fixture
def opened(lab, options):
    """`opened(stores)`: generations that are opened from these stores, by name; others are not there."""

    def make(stores: dict[str, Any]) -> Generations:
        def open_(reads: Reads) -> module.Held:
            if reads.generation not in stores:
                raise NotFound(f"generation {reads.generation} is gone")
            return wiring.held(FRAUD, reads, stores[reads.generation], options())

        return Generations(open_)

    return make


def run(lab, options, split: Split, generations: Generations, story: Any) -> Any:
    async def scenario() -> Any:
        async with (
            lab.HTTPServer(split).running() as server,
            lab.serving(server.address, options(), generations=generations) as path,
        ):
            return await story(path)

    return asyncio.run(scenario())


def test_what_the_model_reads_is_learnt_from_the_predictor(lab, options, opened):
    split, stores = Split(lab, "old"), {"old": lab.MemoryStore()}

    async def story(path):
        return await path.predict(lab.transaction(1))

    reply = run(lab, options, split, opened(stores), story)

    assert reply.status == 200
    assert split.took == [("old", ["features", "history"])]
    assert stores["old"].reads == 1


def test_a_canary_that_reads_another_generation_gets_its_own_inputs_once_they_are_open(lab, options, opened):
    """Until then the revision that was rolled out before answers; no request fails, and no event is lost to either."""
    split, stores = Split(lab, "old"), {name: lab.MemoryStore() for name in ("old", "new")}
    generations = opened(stores)

    async def story(path):
        replies = [await path.predict(lab.transaction(1))]
        split.reading = "new"
        replies.append(await path.predict(lab.transaction(2)))
        await lab.until("the new generation is held", lambda: len(generations) == 2)
        replies.append(await path.predict(lab.transaction(3)))
        split.reading = "old"
        replies.append(await path.predict(lab.transaction(4)))
        return replies

    replies = run(lab, options, split, generations, story)

    assert [reply.status for reply in replies] == [200] * 4
    both = ["features", "history", "features@1", "history@1"]
    assert split.took[:2] == [("old", ["features", "history"])] * 2
    assert split.took[2:] == [("new", both), ("old", both)]
    versions = [reply.document["predictions"][0]["model_version"] for reply in replies]
    assert versions == ["old", "old", "new", "old"]
    assert [one.event_id for store in stores.values() for one in store.appended] == [1, 2, 3, 4]  # one place, once each


def test_a_new_generation_that_has_all_traffic_is_waited_for(lab, options, opened):
    split, stores = Split(lab, "old"), {name: lab.MemoryStore() for name in ("old", "new")}

    async def story(path):
        await path.predict(lab.transaction(1))
        split.stable = split.reading = "new"
        return await path.predict(lab.transaction(2))

    reply = run(lab, options, split, opened(stores), story)

    assert reply.status == 200
    assert reply.document["predictions"][0]["model_version"] == "new"


def test_a_generation_that_is_gone_is_503_and_says_so(lab, options, opened):
    async def story(path):
        return await path.predict(lab.transaction(1))

    reply = run(lab, options, Split(lab, "lost"), opened({}), story)

    assert reply.status == 503
    assert "generation lost is gone" in reply.document["error"]


def test_what_no_model_reads_any_more_is_let_go(lab, options, opened, monkeypatch):
    monkeypatch.setattr(module, "RETIRE_S", 0.0)
    split, stores = Split(lab, "old"), {name: lab.MemoryStore() for name in ("old", "new")}
    generations = opened(stores)

    async def story(path):
        await path.predict(lab.transaction(1))
        split.stable = split.reading = "new"
        await path.predict(lab.transaction(2))
        return [held.reads.generation for held in generations]

    assert run(lab, options, split, generations, story) == ["new"]


def test_a_model_of_an_older_release_is_refused_with_what_to_do(options):
    with pytest.raises(NotFound, match=r"names no generation of state.*make run"):
        asyncio.run(_wait(wiring.generations(FRAUD, options()), Reads(FRAUD.features.FEATURE_SERVICE, "")))


async def _wait(generations: Generations, reads: Reads) -> None:
    await generations.begin(reads)


@pytest.mark.parametrize(
    ("named", "place"), [(None, None), (b"own", 0), (b"other,own", 1), (b"a, own ,b", 1)], ids=repr
)
def test_a_model_finds_its_own_generation_among_those_that_are_brought(named, place):
    assert place_of("own", named) == place


@pytest.mark.parametrize(("own", "named"), [("own", b""), ("own", b"other"), ("", b""), ("", b"other")])
def test_inputs_of_other_generations_are_refused(own, named):
    with pytest.raises(LookupError):
        place_of(own, named)

    assert str(OtherState(Reads("service", own), "3")).startswith("model version 3 reads service from generation")


def test_a_model_that_asks_for_other_inputs_is_not_counted_as_one_that_refuses_or_fails() -> None:
    """Envoy and Knative count answers by class, and three refusals can end a canary."""
    reply = error_reply(OtherState(Reads("service", "new"), "2"))

    assert reply.status // 100 not in {4, 5}
    with pytest.raises(OtherState) as caught:
        _scored(Response(reply.status, (), reply.body))
    assert caught.value.reads == Reads("service", "new")
