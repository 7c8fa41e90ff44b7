"""Who scores which row: the champion, or for its share of an A/B test the challenger.

The challenger can only add: when it fails, is slow or wants other features, the champion scores its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import Unavailable
from millrace.observe.progress import log
from millrace.observe.telemetry import CHALLENGER_FALLBACKS
from serving.transformer.assignment import challenged
from serving.transformer.context import Context
from serving.transformer.core import CHALLENGER, CHAMPION, Part, require_length
from serving.transformer.predictor import Predictor

CHALLENGER_SHARE: Final = 0.5
"""Of the time that is left, what the challenger may take before the champion is asked."""


class Arms:
    """The champion alone, or beside a challenger that has `percent` of the customers."""

    def __init__(
        self,
        champion: Predictor,
        history_length: int,
        *,
        challenger: Predictor | None = None,
        percent: float = 0.0,
        key: bytes = b"",
    ) -> None:
        self._champion, self._challenger = champion, challenger if percent else None
        self._history_length = history_length
        self._percent, self._key = percent, key

    async def score(
        self,
        features: NDArray[np.float32],
        history: NDArray[np.float32],
        pseudonyms: Sequence[str],
        context: Context,
    ) -> list[Part]:
        """Every row, in one part for each model that scored some; raises Unavailable when the champion is."""
        theirs = self._challengers_rows(pseudonyms)
        if not theirs:
            return [await self._ask(self._champion, CHAMPION, range(len(features)), features, history, context)]
        ours = sorted(set(range(len(features))) - set(theirs))
        work = [self._challengers(theirs, features, history, context)]
        if ours:
            work.append(self._ask(self._champion, CHAMPION, ours, features, history, context))
        return list(await asyncio.gather(*work))

    async def variants(
        self, part: Part, features: NDArray[np.float32], history: NDArray[np.float32], context: Context
    ) -> NDArray[np.float32]:
        """Scores of variants of a part's rows, by the model that scored the part."""
        predictor = self._challenger if part.arm == CHALLENGER and self._challenger else self._champion
        return (await predictor.score(features, history, context.headers, timeout_s=context.left_s())).scores

    def _challengers_rows(self, pseudonyms: Sequence[str]) -> list[int]:
        if self._challenger is None:
            return []
        return [row for row, name in enumerate(pseudonyms) if challenged(name, self._percent, self._key)]

    async def _challengers(
        self,
        rows: Sequence[int],
        features: NDArray[np.float32],
        history: NDArray[np.float32],
        context: Context,
    ) -> Part:
        assert self._challenger is not None
        try:
            return await self._ask(self._challenger, CHALLENGER, rows, features, history, context, CHALLENGER_SHARE)
        except Unavailable as error:
            CHALLENGER_FALLBACKS.inc(len(rows))
            log("challenger_failed", rows=len(rows), error=str(error))
        return await self._ask(self._champion, CHAMPION, rows, features, history, context)

    async def _ask(
        self,
        predictor: Predictor,
        arm: str,
        rows: Sequence[int],
        features: NDArray[np.float32],
        history: NDArray[np.float32],
        context: Context,
        share: float = 1.0,
    ) -> Part:
        if len(rows) < len(features):
            features, history = features[list(rows)], history[list(rows)]
        scored = await predictor.score(features, history, context.headers, timeout_s=share * context.left_s())
        require_length(scored, self._history_length)
        return Part(rows, scored, arm, predictor.model_name)
