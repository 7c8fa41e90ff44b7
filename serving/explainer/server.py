"""The explainer: `python -m serving.explainer.server --model_dir=/mnt/models`, an InferenceService's `spec.explainer`.

A process of its own: shap brings numba, which is large and slow to import, and an explanation costs hundreds of scores.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq

from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.model_spec import require_generation
from millrace.settings import settings
from serving.startup import skip_unused_imports


def main() -> None:
    """Load model, reference window, feature store and shap, then serve until SIGTERM."""
    skip_unused_imports()
    from serving.explainer.core import Background
    from serving.explainer.model import Explainer, ExplainerServer, shapley
    from serving.server import parser, quiet
    from serving.transformer.store import open_store

    arguments = parser("Explain the scores of a model.")
    arguments.add_argument("--model_dir", type=Path, default=Path("/mnt/models"), help="Folder of the model artifact.")
    options, _ = arguments.parse_known_args()
    quiet()
    configure("millrace-explainer")
    configured = settings()
    artifact = ModelArtifact.open(options.model_dir)
    version = os.environ.get("MODEL_VERSION", "")
    window = pq.read_table(artifact.manifest.path("reference_window.parquet"))
    columns = {name: window[name].to_numpy() for name in window.column_names}
    background = Background.of(columns, artifact.spec.feature_names)
    shapley(
        lambda coalitions: coalitions.sum(axis=1), len(artifact.workload.explain.INPUTS)
    )  # imports shap before readiness, not in a request
    generation = require_generation(artifact.manifest)
    store = open_store(configured.home, artifact.workload, generation, artifact.spec.history_length)
    name = version if version not in ("", "unset") else artifact.id
    log("explainer_ready", model=options.model_name, version=name, port=options.http_port)
    ExplainerServer(Explainer(options.model_name, artifact, name, background, store, configured), options).serve()


if __name__ == "__main__":
    main()
