"""The transformer's parts, put together from settings."""

from __future__ import annotations

import argparse

from millrace.errors import ConfigError, NotFound, SchemaMismatch
from millrace.events.stream import open_stream
from millrace.installed import Workload
from millrace.observe.progress import log
from millrace.settings import Settings
from serving.reads import Reads
from serving.transformer.arms import Arms
from serving.transformer.events import Events
from serving.transformer.held import Generations, Held
from serving.transformer.memory import Memory
from serving.transformer.model import Transformer
from serving.transformer.predictor import Predictor, PredictorClient
from serving.transformer.refreshed import RefreshedCache
from serving.transformer.shadow import Shadow
from serving.transformer.store import Lookups, OnlineStore, Store, open_store


def transformer(
    name: str, workload: Workload, champion: Predictor, generations: Generations, options: Settings
) -> Transformer:
    """A transformer in front of `champion`; raises ConfigError for a bad setting, Unavailable for the stream's disk."""
    events = Events(open_stream(options))
    arms, shadow = _arms(champion, name, workload, options), _shadow(name, workload, options, events)
    return Transformer(name, workload, generations, options, arms, events, shadow)


def generations(workload: Workload, options: Settings) -> Generations:
    """Those of a workload's state, in the home of `options`."""
    return Generations(lambda reads: _opened(workload, reads, options))


def held(workload: Workload, reads: Reads, store: OnlineStore, options: Settings) -> Held:
    """A generation that is open."""
    lookups = Lookups(_cached(store, workload, options.state_cache_ttl_s), embedded=store.embedded)
    memory = None if workload.recent is None else Memory(workload.recent.entity, store)
    return Held(reads, workload, lookups, memory)


def _opened(workload: Workload, reads: Reads, options: Settings) -> Held:
    """Raises NotFound for a generation that is not here, SchemaMismatch for features that are not this code's."""
    if not reads.generation:
        raise NotFound(
            "the model names no generation of state: an older release promoted it, when a run filled what served. "
            "Promote it again: make run with the same data, which trains nothing anew."
        )
    if reads.feature_service != workload.features.FEATURE_SERVICE:
        raise SchemaMismatch(
            f"the model reads {reads.feature_service}; this transformer computes {workload.features.FEATURE_SERVICE}"
        )
    store = open_store(options.home, workload, reads.generation, options.history_length)
    return held(workload, reads, store, options)


def _cached(store: OnlineStore, workload: Workload, ttl_s: float) -> Store:
    """Memory in front of refreshed views, where the store says when it was refilled; elsewhere that is not safe."""
    if not ttl_s:
        return store
    if store.contents() is None:
        log("state_cache_off", reason="this online store does not say what it was filled from")
        return store
    return RefreshedCache(store, workload, ttl_s)


def predictor(options: argparse.Namespace, configured: Settings) -> Predictor:
    """Where the model is: behind --predictor_host, or in this process."""
    if configured.predictor_topology == "remote":
        return PredictorClient(options.predictor_host, options.model_name)
    from serving.transformer.in_process import InProcess  # ONNX Runtime: not in a process that need not score

    return InProcess(options.model_dir, options.model_name, configured)


def _arms(champion: Predictor, name: str, workload: Workload, options: Settings) -> Arms:
    if bool(options.ab_host) != bool(options.ab_percent):
        got = f"MILLRACE_AB_HOST is {options.ab_host!r} and MILLRACE_AB_PERCENT {options.ab_percent:g}"
        raise ConfigError(f"{got}; wanted both or none")
    if not options.ab_host:
        return Arms(champion, workload, options.history_length)
    challenger = PredictorClient(options.ab_host, name, attempts=1)
    key = options.pseudonym_secret()
    return Arms(champion, workload, options.history_length, challenger=challenger, percent=options.ab_percent, key=key)


def _shadow(name: str, workload: Workload, options: Settings, events: Events) -> Shadow | None:
    if not options.shadow_url:
        return None
    predictor = PredictorClient(options.shadow_url, name, attempts=1, measured=False)
    return Shadow(predictor, workload, options.history_length, events.append)
