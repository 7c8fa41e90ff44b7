"""Who scores which row: the champion, or for its share of an A/B test the challenger.

The challenger can only add: when it fails, is slow or wants other features, the champion scores its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import NotFound, Unavailable
from millrace.events.prediction import CHALLENGER, CHAMPION
from millrace.inputs import Requests
from millrace.installed import Workload
from millrace.observe.progress import log
from millrace.observe.telemetry import CHALLENGER_FALLBACKS
from serving.reads import OtherState, Reads
from serving.transformer.assignment import challenged
from serving.transformer.context import Context
from serving.transformer.core import Choice, Inputs, Part, Scored
from serving.transformer.fit import require_fit
from serving.transformer.predictor import Predictor
from serving.transformer.refreshed import Keys

CHALLENGER_SHARE: Final = 0.5
"""Of the time that is left, what the challenger may take before the champion is asked."""


class Arms:
    """The champion alone, or beside a challenger that has `percent` of the pseudonymised entity, else of the events."""

    def __init__(
        self,
        champion: Predictor,
        workload: Workload,
        history_length: int,
        *,
        challenger: Predictor | None = None,
        percent: float = 0.0,
        key: bytes = b"",
    ) -> None:
        self._champion, self._challenger = champion, challenger if percent else None
        self._workload, self._history_length = workload, history_length
        self._percent, self._key = percent, key
        people = [entity.name for entity in workload.schema.ENTITIES if entity.pseudonymised]
        self._split_by = people[0] if people else None

    async def score(self, choice: Choice, requests: Requests, keys: Keys, context: Context) -> list[Part]:
        """Every row, in one part for each model that scored some, the champion's last.

        Raises Unavailable when the champion is, OtherState when it reads another generation of state.
        """
        theirs = self._challengers_rows(requests, keys)
        rows = range(len(requests))
        if not theirs:
            return [await self._ask(self._champion, CHAMPION, rows, choice, context)]
        ours = sorted(set(rows) - set(theirs))
        work = [self._challengers(theirs, choice, context)]
        if ours:
            work.append(self._ask(self._champion, CHAMPION, ours, choice, context))
        return list(await asyncio.gather(*work))

    async def reads(self, timeout_s: float) -> Reads:
        """What the champion that answers now reads; raises Unavailable."""
        return await self._champion.reads(timeout_s=timeout_s)

    async def serves(self, version: str) -> bool:
        """Whether the champion's predictor answers as this version."""
        return await self._champion.serves(version)

    async def close(self) -> None:
        for predictor in (self._champion, self._challenger):
            if predictor is not None:
                await predictor.close()

    async def variants(self, part: Part, inputs: Inputs, context: Context) -> NDArray[np.float32] | None:
        """Scores of variants of a part's rows, by the version that scored the part.

        None when another one answered, as during a canary: beside its scores, those of the part explain nothing.
        """
        predictor = self._challenger if part.arm == CHALLENGER and self._challenger else self._champion
        generation = part.scored.reads.generation
        choice = Choice([inputs], [generation] if generation and predictor is self._champion else ())
        try:
            scored = await predictor.score(choice, context.headers, timeout_s=context.left_s())
        except OtherState:
            return None
        return scored.scores if scored.model_version == part.scored.model_version else None

    def _challengers_rows(self, requests: Requests, keys: Keys) -> list[int]:
        if self._challenger is None:
            return []
        ids = map(str, requests.event_id.tolist()) if self._split_by is None else keys[self._split_by]
        return [row for row, id_ in enumerate(ids) if challenged(id_, self._percent, self._key)]

    async def _challengers(self, rows: Sequence[int], choice: Choice, context: Context) -> Part:
        assert self._challenger is not None
        try:
            first = Choice(choice.inputs[:1])  # states are shared, as with a shadow
            return await self._ask(self._challenger, CHALLENGER, rows, first, context, CHALLENGER_SHARE)
        except Unavailable as error:
            CHALLENGER_FALLBACKS.inc(len(rows))
            log("challenger_failed", rows=len(rows), error=str(error))
        return await self._ask(self._champion, CHAMPION, rows, choice, context)

    async def _ask(
        self,
        predictor: Predictor,
        arm: str,
        rows: Sequence[int],
        choice: Choice,
        context: Context,
        share: float = 1.0,
    ) -> Part:
        left_s = share * context.left_s()
        choice = choice.rows(rows)
        scored = await predictor.score(choice, context.headers, timeout_s=left_s, check=self._require_fit)
        if context.version is not None and scored.model_version != context.version:
            raise NotFound(f"version {scored.model_version} answers; {context.version[:80]!r} was asked for")
        return Part(rows, scored, arm, predictor.model_name)

    def _require_fit(self, scored: Scored) -> None:
        require_fit(self._workload, scored, self._history_length)
