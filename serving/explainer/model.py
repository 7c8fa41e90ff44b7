"""KServe's explainer: an event in, what each of its inputs added to the score out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput, Unavailable
from millrace.inputs import Requests
from millrace.installed import Workload
from millrace.registry.model_artifact import ModelArtifact
from millrace.requests import RequestFormat
from millrace.settings import Settings
from serving.event_answers import events_too
from serving.explainer.core import (
    Background,
    Event,
    Lengths,
    attributions,
    event_of,
    history_of,
    value_function,
)
from serving.lean import Headers, Reply
from serving.protocol import V2Answer, V2Request, decode_json, decode_v1, encode_json
from serving.server import HotModel, HotServer
from serving.transformer.identity import naming
from serving.transformer.refreshed import Keys
from serving.transformer.store import Store

MAX_ROWS: Final = 32
"""Of one request: with four inputs a row costs 16 coalitions of as many rows as the background has."""


class Explainer(HotModel):
    """`:explain` of one model version."""

    server = "explainer"

    def __init__(
        self, name: str, artifact: ModelArtifact, version: str, background: Background, store: Store, options: Settings
    ) -> None:
        super().__init__(name)
        self._artifact, self._version, self._background = artifact, version, background
        self._workload: Workload = artifact.workload
        self._format = RequestFormat.of(self._workload, strict=options.strict_requests)
        self._lengths = Lengths(artifact.spec.history_length, artifact.spec.sequence_length)
        self._store, self._options = store, options
        self._key = options.pseudonym_secret()
        # Feast and the graph hold the interpreter for long: one at a time, and readiness answers meanwhile.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.ready = True

    async def answer(self, body: bytes, headers: Headers) -> Reply:
        """The lean route of `:explain`."""
        return Reply(encode_json(await self._explanations(decode_json(body), headers)))

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:  # noqa: ARG002
        raise InvalidInput(f"this is the explainer of {self.name}; ask for :explain here, and the service for :predict")

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:  # noqa: ARG002
        raise InvalidInput(f"this is the explainer of {self.name}; it answers POST /v1/models/{self.name}:explain")

    async def _explanations(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        instances = decode_v1(document)
        if len(instances) > MAX_ROWS:
            raise InvalidInput(f"the request has {len(instances)} rows; an explanation takes at most {MAX_ROWS}")
        requests = self._format.from_rows(instances, time.time_ns() // 1000)
        keys = self._format.keys(requests, naming(headers, self._key, accept=self._options.accept_pseudonyms))
        run = asyncio.get_running_loop().run_in_executor
        return {"explanations": await run(self._thread, self._explain, requests, keys)}

    def _explain(self, requests: Requests, keys: Keys) -> list[dict[str, Any]]:
        try:
            states = self._store.read(keys)
        except Exception as error:  # whatever ails the store: without the states there is nothing to explain
            raise Unavailable(f"the online store gave no states: {error!r}") from error
        rows = range(len(requests))
        return [self._explain_row(event_of(requests, states, row, self._lengths.history_length)) for row in rows]

    def _explain_row(self, event: Event) -> dict[str, Any]:
        workload = self._workload
        value = value_function(workload, event, self._background, self._artifact.score, self._lengths)
        effects, base = shapley(value, len(workload.explain.INPUTS))
        answer = {
            workload.schema.EVENT_ID: event.event_id,
            "model_version": self._version,
            "score": float(base + effects.sum()),
            "base_score": float(base),
            "attributions": attributions(workload, self._format, effects, event),
        }
        return answer if workload.recent is None else answer | {"history": history_of(workload, event)}


class ExplainerServer(HotServer):
    """`HotServer` of an `Explainer`."""

    _model: Explainer

    def _routes(self) -> dict[str, Any]:
        name = self._model.name
        return super()._routes() | {f"/v1/models/{name}:explain": events_too(self._model.answer, name)}


def shapley(value: Any, inputs: int) -> tuple[NDArray[np.float64], float]:
    """Exact Shapley values of so many inputs, and what the empty coalition is worth: 2 ** inputs coalitions."""
    import shap

    nothing, everything = np.zeros((1, inputs)), np.ones((1, inputs))
    found = shap.explainers.Exact(value, nothing)(everything, silent=True)
    return found.values[0], float(np.ravel(found.base_values)[0])
