"""KServe's model of the transformer: transactions in, decisions out.

It looks customer and terminal up, computes the model's inputs with the code that trained it, has them scored, and
remembers the transaction before it answers. Whoever watches is told after the answer, and never waited for.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from fraud.online import Response
from fraud.requests import Transactions, from_rows
from millrace.errors import Unavailable
from millrace.observe.progress import log
from millrace.observe.telemetry import (
    DEADLINES_EXCEEDED,
    JOURNAL_PENDING,
    LOOKUP_FAILURES,
    LOOKUP_SECONDS,
    PREDICTIONS,
    SCORES,
)
from millrace.observe.tracing import span
from millrace.settings import Settings
from serving.lean import Headers
from serving.protocol import V2Answer, V2Request, decode_v1
from serving.server import HotModel
from serving.transformer import core
from serving.transformer.arms import Arms
from serving.transformer.breaker import Breaker
from serving.transformer.context import Context, DeadlineExceeded
from serving.transformer.customers import KnownCustomers
from serving.transformer.events import Record
from serving.transformer.identity import pseudonyms
from serving.transformer.journal import Journal
from serving.transformer.pushed import Pushed
from serving.transformer.pusher import Pusher
from serving.transformer.shadow import Shadow
from serving.transformer.sinks import Events
from serving.transformer.state import Overlay
from serving.transformer.store import Lookups, OnlineStore

LOOKUP_SHARE: Final = 0.5
"""Of the time that is left, what the lookup may take: an answer from defaults needs the rest."""
FLUSH_S: Final = 3.0
"""What watching may delay the end of the process."""


class Transformer(HotModel):
    """KServe's model in front of the predictor."""

    inputs, outputs = core.INPUTS, core.OUTPUTS
    server = "transformer"

    def __init__(
        self,
        name: str,
        store: OnlineStore,
        lookups: Lookups,
        options: Settings,
        arms: Arms,
        events: Events,
        shadow: Shadow | None = None,
        known: KnownCustomers | None = None,
    ) -> None:
        super().__init__(name)
        self._known = known
        self._arms, self._events, self._shadow = arms, events, shadow
        self._lookups, self._breaker = lookups, Breaker()
        self._overlay = Overlay(options.history_length)
        folder = options.home / "serving" / "journal"
        self._journal = Journal(folder)
        refilled = known.forget if known is not None else None
        self._pusher = Pusher(store, self._overlay, self._journal, Pushed(folder / "pushed", options.lake), refilled)
        self._key = options.pseudonym_secret()
        self._accept_pseudonyms = options.accept_pseudonyms
        self._history_length = options.history_length
        self._lookup_timeout_s = options.lookup_timeout_s
        self._deadline_s = options.deadline_ms / 1e3
        self._tasks: list[asyncio.Task[None]] = []
        self._overlay.add(self._journal.replay())
        JOURNAL_PENDING.set_function(lambda: len(self._overlay))
        self.ready = True

    async def started(self) -> None:
        log("journal_replayed", customers=len(self._overlay))
        self._events.start()
        forever = [self._pusher.sync_forever(), self._pusher.push_forever()]
        if self._shadow is not None:
            forever.append(self._shadow.run())
        self._tasks = [asyncio.create_task(work) for work in forever]

    async def answer_v1(self, document: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
        context = Context.of(headers, self._deadline_s)
        return {"predictions": await self._answer(from_rows(decode_v1(document), _now_us()), headers, context)}

    async def answer_v2(self, request: V2Request, headers: Headers) -> V2Answer:
        context = Context.of(headers, self._deadline_s)
        return core.answer_v2(await self._answer(core.requests_v2(request, _now_us()), headers, context))

    async def _answer(self, requests: Transactions, headers: Headers, context: Context) -> list[dict[str, Any]]:
        names = pseudonyms(requests.customer_id, headers, self._key, accept=self._accept_pseudonyms)
        try:
            async with asyncio.timeout(context.left_s()):
                prepared, parts = await self._score(requests, names, context)
        except (TimeoutError, DeadlineExceeded) as error:
            DEADLINES_EXCEEDED.inc()
            raise context.exceeded() from error
        why = await self._explain(requests, prepared, parts, context)
        rows = core.answers(requests, parts, why, prepared.degraded)
        self._tell(requests, names, prepared, parts, context)
        return rows

    async def _score(
        self, requests: Transactions, names: list[str], context: Context
    ) -> tuple[core.Prepared, list[core.Part]]:
        """Lookup, inputs, scores; the transactions are remembered when this returns."""
        async with self._overlay.in_order(names):
            generation = self._known.generation if self._known is not None else 0
            pending = self._overlay.pending(names)
            response = await self._lookup(names, requests.terminal_id, context)
            prepared = core.prepare(requests, names, response, pending, self._overlay, self._history_length)
            parts = await self._arms.score(prepared.features, prepared.history, names, context)
            self._journal.append(prepared.entries)
            self._overlay.add(prepared.entries)
            if self._known is not None and not prepared.degraded:
                self._known.keep(prepared.after, generation)
        return prepared, parts

    async def _lookup(self, customers: list[str], terminals: list[str], context: Context) -> Response | None:
        """The store's answer, or None when it has none in time: the request is then answered from defaults."""
        if not self._breaker.allows():
            return None
        began = time.perf_counter()
        try:
            timeout_s = min(self._lookup_timeout_s, LOOKUP_SHARE * context.left_s())
            with span("store.lookup"):
                response = await self._lookups.read(customers, terminals, timeout_s)
        except DeadlineExceeded:
            raise
        except Exception as error:  # noqa: BLE001 - whatever ails the store, the client gets an answer
            LOOKUP_FAILURES.inc()
            log("lookup_failed", error=repr(error), rows=len(customers))
            self._breaker.failed(error)
            return None
        self._breaker.succeeded()
        LOOKUP_SECONDS.observe(time.perf_counter() - began)
        return response

    async def _explain(
        self, requests: Transactions, prepared: core.Prepared, parts: list[core.Part], context: Context
    ) -> dict[int, list[dict[str, Any]]]:
        """Reasons of the flagged rows; none, with a line in the log, when the predictor fails the second time."""
        why: dict[int, list[dict[str, Any]]] = {}
        for part in parts:
            places = core.flagged(part.scored)
            for start in range(0, len(places), core.EXPLAINED_AT_ONCE):
                some = places[start : start + core.EXPLAINED_AT_ONCE]
                rows = [part.rows[place] for place in some]
                features, history = core.explain_inputs(requests, prepared, rows, self._history_length)
                try:
                    variants = await self._arms.variants(part, features, history, context)
                except Unavailable as error:
                    log("explanation_failed", error=str(error))
                    break
                why |= core.explain(part.scored.scores[some].tolist(), rows, variants)
        return why

    def _tell(
        self,
        requests: Transactions,
        names: list[str],
        prepared: core.Prepared,
        parts: list[core.Part],
        context: Context,
    ) -> None:
        """Metrics, prediction events, shadow: what is left of this runs after the answer."""
        at, latency_ms = datetime.now(UTC), context.elapsed_ms()
        for part in parts:
            record = Record(context, at, latency_ms, requests, names, prepared.features, prepared.degraded, part)
            self._events.put(record)
            _count(part, prepared.degraded)
        if self._shadow is not None:
            self._shadow.mirror(record, prepared.history)

    async def finished(self) -> None:
        """The last request is answered: tell what is untold, bring the journal to the disk."""
        if self._shadow is not None:
            await self._shadow.finish(FLUSH_S / 3)
        await self._events.finish(FLUSH_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._journal.close()


def _count(part: core.Part, degraded: bool) -> None:
    scored = part.scored
    model = part.model_name, scored.model_version
    for score in scored.scores.tolist():
        _bound(SCORES, *model).observe(score)
        _bound(PREDICTIONS, *model, core.decision(score, scored), degraded).inc()


@functools.lru_cache(256)
def _bound(metric: Any, *labels: Any) -> Any:
    """`metric.labels(…)`, which takes a lock and makes text of the labels each time."""
    return metric.labels(*labels)


def _now_us() -> int:
    return time.time_ns() // 1000
