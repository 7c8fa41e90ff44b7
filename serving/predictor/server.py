"""The predictor: ONNX Runtime behind the KServe SDK. `python -m serving.predictor.server --model_dir=/mnt/models`."""

from __future__ import annotations

import os
from pathlib import Path

from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.settings import settings
from serving.startup import skip_unused_imports


def main() -> None:
    """Load and warm the model, then serve it until SIGTERM."""
    skip_unused_imports()
    from serving.predictor.live import LiveModel
    from serving.predictor.model import Predictor
    from serving.server import HotServer, parser, quiet

    arguments = parser("Serve a model artifact over V1, V2 and gRPC.")
    arguments.add_argument("--model_dir", type=Path, default=Path("/mnt/models"), help="Folder of the model artifact.")
    options, _ = arguments.parse_known_args()
    quiet()
    configure("millrace-predictor")
    version = os.environ.get("MODEL_VERSION", "")
    live = LiveModel(options.model_dir, settings(), "" if version == "unset" else version)
    log("predictor_ready", model=options.model_name, version=live.batcher.scorer.version, port=options.http_port)
    HotServer(Predictor(options.model_name, live), options).serve()


if __name__ == "__main__":
    main()
