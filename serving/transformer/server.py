"""The transformer's process: `python -m serving.transformer.server --predictor_host=host:port`."""

from __future__ import annotations

import sys

from millrace.errors import ConfigError
from millrace.progress import log
from millrace.settings import settings
from serving.startup import skip_unused_imports

SWITCH_INTERVAL_S = 0.0005
"""A push runs for tens of milliseconds in its thread; requests need not wait 5 ms (Python's default) for each turn."""


def main() -> None:
    """Open the feature store, replay the journal, then serve until SIGTERM."""
    skip_unused_imports()
    from serving.server import HotServer, parser, quiet
    from serving.transformer.model import Transformer
    from serving.transformer.predictor import PredictorClient
    from serving.transformer.store import FeastStore

    options, _ = parser("Turn transactions into decisions.").parse_known_args()
    if not options.predictor_host:
        raise ConfigError("--predictor_host is missing; wanted host:port of the predictor (KServe appends it)")
    quiet()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    configured = settings()
    predictor = PredictorClient(options.predictor_host, options.model_name)
    store = FeastStore(configured.home / "feast")
    model = Transformer(options.model_name, predictor, store, configured)
    log("transformer_ready", model=options.model_name, predictor=options.predictor_host, port=options.http_port)
    HotServer(model, options).serve()


if __name__ == "__main__":
    main()
