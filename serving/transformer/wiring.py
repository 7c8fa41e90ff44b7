"""The transformer's parts, put together from settings."""

from __future__ import annotations

from millrace.errors import ConfigError
from millrace.settings import Settings
from serving.transformer.arms import Arms
from serving.transformer.model import Transformer
from serving.transformer.predictor import Predictor, PredictorClient
from serving.transformer.shadow import Shadow
from serving.transformer.sinks import Events
from serving.transformer.store import OnlineStore


def transformer(name: str, predictor: str | Predictor, store: OnlineStore, options: Settings) -> Transformer:
    """A transformer in front of `predictor` (an address, or a model in this process); raises ConfigError."""
    champion = PredictorClient(predictor, name) if isinstance(predictor, str) else predictor
    events = Events([url.strip() for url in options.event_sinks.split(",") if url.strip()])
    return Transformer(name, store, options, _arms(champion, name, options), events, _shadow(name, options, events))


def _arms(champion: Predictor, name: str, options: Settings) -> Arms:
    if bool(options.ab_host) != bool(options.ab_percent):
        got = f"MILLRACE_AB_HOST is {options.ab_host!r} and MILLRACE_AB_PERCENT {options.ab_percent:g}"
        raise ConfigError(f"{got}; wanted both or none")
    if not options.ab_host:
        return Arms(champion, options.history_length)
    challenger = PredictorClient(options.ab_host, name, attempts=1)
    key = options.pseudonym_secret()
    return Arms(champion, options.history_length, challenger=challenger, percent=options.ab_percent, key=key)


def _shadow(name: str, options: Settings, events: Events) -> Shadow | None:
    if not options.shadow_url:
        return None
    predictor = PredictorClient(options.shadow_url, name, attempts=1, measured=False)
    return Shadow(predictor, options.history_length, events.put)
