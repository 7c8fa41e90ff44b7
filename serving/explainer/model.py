"""KServe's explainer: a transaction in, what each of its inputs added to the score out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from kserve.errors import InvalidInput as KServeInvalidInput
from kserve.errors import ServerNotReady
from numpy.typing import NDArray

from fraud.online import CustomerState, Response, customer_states, terminal_states
from fraud.requests import Transactions, from_rows
from millrace.errors import InvalidInput, Unavailable
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings
from serving.explainer.core import (
    INPUTS,
    Background,
    Transaction,
    attributions,
    history_of,
    value_function,
)
from serving.lean import Headers, Reply
from serving.protocol import V2Answer, V2Request, decode_json, decode_v1, encode_json
from serving.server import HotModel, HotServer
from serving.transformer.identity import pseudonyms
from serving.transformer.store import Store

MAX_ROWS: Final = 32
"""Of one request: a row costs 16 coalitions of as many rows as the background has."""


class Explainer(HotModel):
    """`:explain` of one model version."""

    server = "explainer"

    def __init__(
        self, name: str, artifact: ModelArtifact, version: str, background: Background, store: Store, options: Settings
    ) -> None:
        super().__init__(name)
        self._artifact, self._version, self._background = artifact, version, background
        self._store, self._options = store, options
        self._key = options.pseudonym_secret()
        # Feast and the graph hold the interpreter for long: one at a time, and readiness answers meanwhile.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.ready = True

    async def answer(self, body: bytes, headers: Headers) -> Reply:
        """The lean route of `:explain`."""
        return Reply(encode_json(await self._explanations(decode_json(body), headers)))

    async def explain(self, payload: Any, headers: dict[str, str] | None = None) -> Any:
        """The SDK's door, for CloudEvents."""
        if not isinstance(payload, Mapping):
            raise KServeInvalidInput(f"the event's data is {type(payload).__name__}; wanted a JSON object")
        lower = {key.lower().encode(): value.encode() for key, value in (headers or {}).items()}
        try:
            return await self._explanations(payload, lower)
        except InvalidInput as error:
            raise KServeInvalidInput(str(error)) from error
        except Unavailable as error:
            raise ServerNotReady(str(error)) from error

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:  # noqa: ARG002
        raise InvalidInput(f"this is the explainer of {self.name}; ask for :explain here, and the service for :predict")

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:  # noqa: ARG002
        raise InvalidInput(f"this is the explainer of {self.name}; it answers POST /v1/models/{self.name}:explain")

    async def _explanations(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        instances = decode_v1(document)
        if len(instances) > MAX_ROWS:
            raise InvalidInput(f"the request has {len(instances)} rows; an explanation takes at most {MAX_ROWS}")
        requests = from_rows(instances, time.time_ns() // 1000)
        names = pseudonyms(requests.customer_id, headers, self._key, accept=self._options.accept_pseudonyms)
        run = asyncio.get_running_loop().run_in_executor
        return {"explanations": await run(self._thread, self._explain, requests, names)}

    def _explain(self, requests: Transactions, names: list[str]) -> list[dict[str, Any]]:
        try:
            response = self._store.read(names, requests.terminal_id)
        except Exception as error:  # whatever ails the store: without the states there is nothing to explain
            raise Unavailable(f"the online store gave no states: {error!r}") from error
        seen = self._artifact.spec.history_length
        return [self._explain_row(transaction) for transaction in _transactions(requests, response, seen)]

    def _explain_row(self, transaction: Transaction) -> dict[str, Any]:
        spec = self._artifact.spec
        value = value_function(
            transaction, self._background, self._artifact.score, spec.history_length, spec.sequence_length
        )
        effects, base = shapley(value)
        return {
            "transaction_id": transaction.transaction_id,
            "model_version": self._version,
            "score": float(base + effects.sum()),
            "base_score": float(base),
            "attributions": attributions(effects, transaction),
            "history": history_of(transaction),
        }


class ExplainerServer(HotServer):
    """`HotServer` of an `Explainer`."""

    _model: Explainer

    def _routes(self) -> dict[str, Any]:
        return super()._routes() | {f"/v1/models/{self._model.name}:explain": self._model.answer}


def shapley(value: Any) -> tuple[NDArray[np.float64], float]:
    """Exact Shapley values of the four inputs, and what the empty coalition is worth: 16 coalitions."""
    import shap

    nothing, everything = np.zeros((1, len(INPUTS))), np.ones((1, len(INPUTS)))
    found = shap.explainers.Exact(value, nothing)(everything, silent=True)
    return found.values[0], float(np.ravel(found.base_values)[0])


def _transactions(requests: Transactions, response: Response, history_length: int) -> list[Transaction]:
    """States as the model sees them: what came strictly before, the newest N of it."""
    rows = zip(
        requests.transaction_id.tolist(),
        requests.event_us.tolist(),
        requests.amount_cents.tolist(),
        requests.terminal_id,
        customer_states(response),
        terminal_states(response),
        strict=True,
    )
    return [
        Transaction(id_, event_us, cents, terminal_id, _newest(state.before(id_, event_us), history_length), terminal)
        for id_, event_us, cents, terminal_id, state, terminal in rows
    ]


def _newest(state: CustomerState, count: int) -> CustomerState:
    return CustomerState(*(values[-count:] for values in state.arrays()))
