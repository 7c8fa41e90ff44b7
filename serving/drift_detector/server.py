"""The drift detector: `python -m serving.drift_detector.server --model_name=drift-detector --http_port=8080`.

KServe's model server, and a thread that reads the event stream. Runs in the environment of
requirements/drift-detector.txt.
"""

from __future__ import annotations

import os
import sys

from millrace.errors import MillraceError
from millrace.observe.progress import log
from serving.startup import skip_unused_imports

NICENESS = 10
"""Watching must not slow what is watched, where both share a machine."""


def main() -> int:
    """Restore the state, then serve until SIGTERM; a MillraceError becomes one message and status 1."""
    try:
        serve()
    except MillraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def serve() -> None:
    """Until SIGTERM; what was read from the stream is judged and saved before this returns."""
    os.nice(NICENESS)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from millrace.events.appender import Appender
    from millrace.events.stream import open_stream
    from millrace.events.watched import show_groups
    from millrace.installed import load
    from millrace.observe.tracing import configure
    from millrace.settings import settings
    from serving.drift_detector.backends import backend_of
    from serving.drift_detector.consumer import Consumer, group_of
    from serving.drift_detector.events import Events
    from serving.drift_detector.references import ModelStore
    from serving.drift_detector.service import DriftService
    from serving.drift_detector.settings import drift_settings
    from serving.logged_rows import Bodies
    from serving.posted import Posted

    chosen, shared = drift_settings(), settings()
    backend = backend_of(chosen.backend)  # before torch is left out of everything that follows
    if chosen.backend == "streaming":
        skip_unused_imports()
    from kserve.model_server import app

    from serving.drift_detector.model import DriftModel
    from serving.server import HotServer, parser, quiet

    options, _ = parser("Watch the inputs, scores and decisions of a served model.").parse_known_args()
    quiet()
    configure("millrace-drift-detector")
    workload = load(shared.workload)
    models = ModelStore(chosen.store_of(shared), shared.model_name, workload.name)
    service = DriftService(chosen, chosen.folder_of(shared), models, backend)
    service.restore()
    bodies = Bodies(workload.name, shared.pseudonym_secret(), accept_pseudonyms=shared.accept_pseudonyms)
    stream, group = open_stream(shared), group_of(shared.model_name)
    show_groups(stream)
    appender = Appender(stream)
    events = Events(shared.model_name, workload.name, shared.future_tolerance_s)
    consumer = Consumer(stream, group, events, service, f"/millrace/{options.model_name}")
    width = len(workload.features.FEATURE_NAMES)
    posted = Posted(bodies, shared.model_name)
    model = DriftModel(options.model_name, service, posted, appender, consumer.waiting, width)
    app.add_route("/", model.events, methods=["POST"])
    app.add_route("/v1/alarms", model.alarms, methods=["GET"])
    app.add_route("/v1/drift", model.status, methods=["GET"])
    log("drift_detector_ready", backend=backend.name, versions=service.models.versions(), port=options.http_port)
    consumer.start()
    try:
        HotServer(model, options).serve()
    finally:
        consumer.stop()
        appender.close()
        stream.close()


if __name__ == "__main__":
    sys.exit(main())
