"""The predictor: ONNX Runtime behind the KServe SDK. `python -m serving.predictor.server --model_dir=/mnt/models`."""

from __future__ import annotations

import os
from pathlib import Path

from millrace.model_artifact import ModelArtifact
from millrace.progress import log
from serving.predictor.core import Scorer
from serving.startup import skip_unused_imports


def main() -> None:
    """Load and warm the model, then serve it until SIGTERM."""
    skip_unused_imports()
    from serving.predictor.model import Predictor
    from serving.server import HotServer, parser, quiet

    arguments = parser("Serve a model artifact over V1, V2 and gRPC.")
    arguments.add_argument("--model_dir", type=Path, default=Path("/mnt/models"), help="Folder of the model artifact.")
    options, _ = arguments.parse_known_args()
    quiet()
    artifact = ModelArtifact.open(options.model_dir)
    version = os.environ.get("MODEL_VERSION", "")
    scorer = Scorer(artifact, version if version not in ("", "unset") else artifact.id)
    log("predictor_ready", model=options.model_name, version=scorer.version, port=options.http_port)
    HotServer(Predictor(options.model_name, scorer), options).serve()


if __name__ == "__main__":
    main()
