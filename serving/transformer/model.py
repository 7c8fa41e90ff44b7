"""KServe's model of the transformer: transactions in, decisions out.

It looks customer and terminal up, computes the model's inputs with the code that trained it, asks the predictor, and
remembers the transaction before it answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import Counter

from millrace.errors import InvalidInput, Unavailable
from millrace.fraud.online import Response
from millrace.fraud.requests import Transactions, from_rows
from millrace.progress import log
from millrace.pseudonyms import pseudonym
from millrace.settings import Settings
from serving.lean import Headers
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.server import HotModel
from serving.transformer import core
from serving.transformer.journal import Journal
from serving.transformer.predictor import PredictorClient
from serving.transformer.pusher import Pusher
from serving.transformer.state import Overlay
from serving.transformer.store import FeastStore, Lookups

PSEUDONYMS_HEADER: Final = b"x-millrace-customer-ids"
"""With the value `pseudonyms`: the ids are pseudonyms already. Refused unless MILLRACE_ACCEPT_PSEUDONYMS is set."""

PREDICTIONS = Counter("millrace_predictions", "Answers by decision", ["decision", "degraded"])
LOOKUP_FAILURES = Counter("millrace_lookup_failures", "Lookups that the online store did not answer")


class Transformer(HotModel):
    """KServe's model in front of the predictor."""

    inputs, outputs = core.INPUTS, core.OUTPUTS

    def __init__(self, name: str, predictor: PredictorClient, store: FeastStore, options: Settings) -> None:
        super().__init__(name)
        self._predictor = predictor
        self._lookups = Lookups(store)
        self._overlay = Overlay(options.history_length)
        self._journal = Journal(options.home / "serving" / "journal")
        self._pusher = Pusher(store, self._overlay, self._journal)
        self._key = options.pseudonym_secret()
        self._accept_pseudonyms = options.accept_pseudonyms
        self._history_length = options.history_length
        self._lookup_timeout_s = options.lookup_timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._overlay.add(self._journal.replay())
        self.ready = True

    async def started(self) -> None:
        log("journal_replayed", customers=len(self._overlay))
        self._tasks = [
            asyncio.create_task(self._pusher.sync_forever()),
            asyncio.create_task(self._pusher.push_forever()),
        ]

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        return {"predictions": await self._answer(from_rows(decode_v1(document), _now_us()), headers)}

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:
        return core.answer_v2(await self._answer(core.requests_v2(request, _now_us()), headers))

    async def _answer(self, requests: Transactions, headers: Headers) -> list[dict[str, Any]]:
        names = self._pseudonyms(requests.customer_id, headers)
        async with self._overlay.in_order(names):
            pending = self._overlay.pending(names)
            response = await self._lookup(names, requests.terminal_id)
            prepared = core.prepare(requests, names, response, pending, self._overlay, self._history_length)
            scored = await self._predictor.score(prepared.features, prepared.history, headers)
            core.require_length(scored, self._history_length)
            self._journal.append(prepared.entries)
            self._overlay.add(prepared.entries)
        why = await self._explain(requests, prepared, scored)
        rows = core.answers(requests, scored, why, prepared.degraded)
        for row in rows:
            PREDICTIONS.labels(row["decision"], row["degraded"]).inc()
        return rows

    def _pseudonyms(self, customer_ids: list[str], headers: Headers) -> list[str]:
        said = headers.get(PSEUDONYMS_HEADER)
        if said is None:
            return [pseudonym(customer_id, self._key) for customer_id in customer_ids]
        if said != b"pseudonyms" or not self._accept_pseudonyms:
            raise InvalidInput(
                f"header {PSEUDONYMS_HEADER.decode()} is {said.decode('latin-1')!r}; wanted it absent, "
                "or 'pseudonyms' at a server with MILLRACE_ACCEPT_PSEUDONYMS=true"
            )
        return customer_ids

    async def _lookup(self, customers: list[str], terminals: list[str]) -> Response | None:
        """The store's answer, or None when it has none in time: the request is then answered from defaults."""
        try:
            return await self._lookups.read(customers, terminals, self._lookup_timeout_s)
        except Exception as error:  # noqa: BLE001 - whatever ails the store, the client gets an answer
            LOOKUP_FAILURES.inc()
            log("lookup_failed", error=repr(error), rows=len(customers))
            return None

    async def _explain(
        self, requests: Transactions, prepared: core.Prepared, scored: core.Scored
    ) -> dict[int, list[dict[str, Any]]]:
        """Reasons of the flagged rows; none, with a line in the log, when the predictor fails the second time."""
        why: dict[int, list[dict[str, Any]]] = {}
        rows = core.flagged(scored)
        for start in range(0, len(rows), core.EXPLAINED_AT_ONCE):
            part = rows[start : start + core.EXPLAINED_AT_ONCE]
            features, history = core.explain_inputs(requests, prepared, part, self._history_length)
            try:
                why |= core.explain(scored, part, (await self._predictor.score(features, history)).scores)
            except Unavailable as error:
                log("explanation_failed", error=str(error))
                break
        return why

    def stop(self) -> None:
        """On SIGTERM: what is not pushed stays in the journal for the next start."""
        super().stop()
        for task in self._tasks:
            task.cancel()


def _now_us() -> int:
    return time.time_ns() // 1000
