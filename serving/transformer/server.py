"""The transformer's process: `python -m serving.transformer.server --predictor_host=host:port`."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from millrace.errors import ConfigError
from millrace.installed import load
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.settings import Settings, settings
from serving.startup import skip_unused_imports

SWITCH_INTERVAL_S = 0.0005
"""A push runs for tens of milliseconds in its thread; requests need not wait 5 ms (Python's default) for each turn."""


def require_predictor(options: argparse.Namespace, configured: Settings) -> None:
    """Raise ConfigError when the arguments do not say where the model is."""
    if configured.predictor_topology == "remote" and not options.predictor_host:
        raise ConfigError("--predictor_host is missing; wanted host:port of the predictor (KServe appends it)")
    if configured.predictor_topology == "in_process" and options.model_dir is None:
        raise ConfigError(
            "MILLRACE_PREDICTOR_TOPOLOGY is in_process and --model_dir is missing; wanted a model's folder"
        )


def main() -> None:
    """Import what the state needs, then serve until SIGTERM; the predictor says which generation is read."""
    skip_unused_imports()
    from serving.server import parser, quiet
    from serving.transformer.routes import TransformerServer
    from serving.transformer.wiring import generations, predictor, transformer

    arguments = parser("Turn events into answers.")
    arguments.add_argument("--model_dir", type=Path, help="Model artifact, for a topology of in_process.")
    options, _ = arguments.parse_known_args()
    configured = settings()
    require_predictor(options, configured)
    quiet()
    configure("millrace-transformer")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    workload = load(configured.workload)
    importlib.import_module("feast")  # seconds: before readiness, not in a request
    held = generations(workload, configured)
    model = transformer(options.model_name, workload, predictor(options, configured), held, configured)
    where = options.predictor_host if configured.predictor_topology == "remote" else options.model_dir
    log("transformer_ready", model=options.model_name, predictor=str(where), port=options.http_port)
    TransformerServer(model, options).serve()


if __name__ == "__main__":
    main()
