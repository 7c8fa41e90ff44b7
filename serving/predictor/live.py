"""The model version that answers now, and how another takes its place without a request being dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from millrace.errors import MillraceError, Unavailable
from millrace.observe import telemetry
from millrace.observe.progress import log
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings
from serving.predictor.batching import Batcher
from serving.predictor.cache import ScoreCache
from serving.predictor.core import Scorer


class ReloadFailed(Unavailable):
    """The model in the folder cannot be served; the one before goes on answering."""


class LiveModel:
    """The batcher of the model in `folder`, which may be a link that moves; `version` is what answers call it."""

    def __init__(self, folder: Path, options: Settings, version: str = "") -> None:
        self._folder, self._options = folder, options
        self._reloading = asyncio.Lock()
        self.alone: Callable[[], bool] = lambda: False
        """Set by a server that knows how many requests are under way; see `Batcher`."""
        self.batcher = self._open(version, None)
        telemetry.QUEUE_ROWS.set_function(lambda: self.batcher.waiting_rows)

    async def reload(self, version: str = "") -> Scorer:
        """Verify, load and warm what is in the folder now, aside; then let it answer. Raises ReloadFailed.

        Requests that the old model took are answered by it. Without a `version` the same files keep their name, others
        are called by their id.
        """
        async with self._reloading:
            try:
                batcher = await asyncio.to_thread(self._open, version, self.batcher.scorer)
            except (MillraceError, OSError) as error:
                telemetry.MODEL_RELOADS.labels("failed").inc()
                log("model_reload_failed", folder=str(self._folder), error=str(error))
                kept = self.batcher.scorer.version
                raise ReloadFailed(f"the model at {self._folder} cannot be served: {error} (kept: {kept})") from error
            self.batcher = batcher
        telemetry.MODEL_RELOADS.labels("loaded").inc()
        log("model_reloaded", folder=str(self._folder), version=batcher.scorer.version)
        return batcher.scorer

    def _open(self, version: str, current: Scorer | None) -> Batcher:
        options = self._options
        # Resolved once, so that a link that moves meanwhile cannot mix the files of two versions.
        artifact = ModelArtifact.open(self._folder.resolve(), cascade=options.cascade)
        same = current is not None and current.artifact.id == artifact.id
        name = version or (current.version if current is not None and same else artifact.id)
        cache = ScoreCache(options.cache_ttl_s, options.cache_rows) if options.cache_ttl_s > 0 else None
        return Batcher(
            Scorer(artifact, name),
            batch_rows=options.batch_rows,
            batch_run_ms=options.batch_run_ms,
            queue_rows=options.queue_rows,
            cache=cache,
            alone=lambda: self.alone(),
        )
