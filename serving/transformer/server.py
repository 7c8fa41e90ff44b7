"""The transformer's process: `python -m serving.transformer.server --predictor_host=host:port`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from millrace.errors import ConfigError
from millrace.installed import Workload, load
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.settings import Settings, settings
from serving.startup import skip_unused_imports

SWITCH_INTERVAL_S = 0.0005
"""A push runs for tens of milliseconds in its thread; requests need not wait 5 ms (Python's default) for each turn."""


def require_history_length(home: Path, workload: Workload, history_length: int) -> None:
    """Raise ConfigError when the recent view of the online store was filled with states of another length.

    Where the store came without the lake that says so, the predictor's answers tell.
    """
    if workload.recent is None:
        return
    folder = home / "lake" / "online" / (filled_with(home, workload.name) or "")
    if not (folder / "manifest.json").is_file():
        return
    stored = int(Manifest.read(folder, "online_store").facts["history_length"])
    if stored != history_length:
        raise ConfigError(
            f"MILLRACE_HISTORY_LENGTH is {history_length}; the online store in {home} was filled with {stored}. "
            "Set it to that, or materialize again."
        )


def require_predictor(options: argparse.Namespace, configured: Settings) -> None:
    """Raise ConfigError when the arguments do not say where the model is."""
    if configured.predictor_topology == "remote" and not options.predictor_host:
        raise ConfigError("--predictor_host is missing; wanted host:port of the predictor (KServe appends it)")
    if configured.predictor_topology == "in_process" and options.model_dir is None:
        raise ConfigError(
            "MILLRACE_PREDICTOR_TOPOLOGY is in_process and --model_dir is missing; wanted a model's folder"
        )


def main() -> None:
    """Open the feature store, then serve until SIGTERM."""
    skip_unused_imports()
    from serving.server import parser, quiet
    from serving.transformer.routes import TransformerServer
    from serving.transformer.store import open_store
    from serving.transformer.wiring import predictor, transformer

    arguments = parser("Turn events into answers.")
    arguments.add_argument("--model_dir", type=Path, help="Model artifact, for a topology of in_process.")
    options, _ = arguments.parse_known_args()
    configured = settings()
    require_predictor(options, configured)
    quiet()
    configure("millrace-transformer")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    workload = load(configured.workload)
    require_history_length(configured.home, workload, configured.history_length)
    repo = repository(configured.home, workload.name)
    store = open_store(repo, workload, configured.history_length, configured.lake)
    model = transformer(options.model_name, workload, predictor(options, configured), store, configured)
    where = options.predictor_host if configured.predictor_topology == "remote" else options.model_dir
    log("transformer_ready", model=options.model_name, predictor=str(where), port=options.http_port)
    TransformerServer(model, options).serve()


if __name__ == "__main__":
    main()
