"""The prediction log's process: `python -m serving.prediction_log.server --http_port=8080 --host=0.0.0.0`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from contextlib import suppress

import uvicorn

from millrace.errors import MillraceError, Unavailable
from millrace.events.appender import Appender
from millrace.events.log import engine, require_ours
from millrace.events.stream import open_stream
from millrace.events.watched import show_groups
from millrace.installed import names
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.settings import Settings, settings
from serving.logged_rows import Bodies
from serving.prediction_log.app import App
from serving.prediction_log.feed import Feed, FeedWatch
from serving.prediction_log.retention import Retention
from serving.prediction_log.writer import Writer
from serving.wire import StrictProtocol

DRAIN_S = 10.0
"""What the end of the process waits for the database; the stream keeps what it did not take."""
SWITCH_INTERVAL_S = 0.0005
"""The writer's thread need not hold up a request for 5 ms (Python's default)."""


def serve(settings: Settings, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT; then requests are finished, the stream is read to its end, and it returns."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    configure("millrace-prediction-log")
    database = engine(settings)
    with suppress(Unavailable):  # a database that is away is waited for; the stream takes what comes
        require_ours(database)
    stream = open_stream(settings)
    show_groups(stream)
    appender = Appender(stream)
    writer = Writer(database, stream, socket.gethostname(), Retention(database, settings.log_retention_days))
    secret = settings.pseudonym_secret()
    bodies = Bodies(settings.workload, secret, accept_pseudonyms=settings.accept_pseudonyms)
    app = App(appender, writer, database, bodies)
    config = uvicorn.Config(
        app, host=host, port=port, loop="uvloop", http=StrictProtocol, ws="none", lifespan="off",
        log_level="warning", access_log=False, server_header=False, date_header=False, timeout_graceful_shutdown=20,
    )  # fmt: skip
    # uvicorn ends on these and then raises them again; by default that would be the end before the stream is read.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    watch = FeedWatch([Feed(database, workload) for workload in sorted({settings.workload, *names()})])
    writer.start()
    watch.start()
    log("prediction_log_ready", port=port, database=database.url.render_as_string(hide_password=True))
    try:
        uvicorn.Server(config).run()
    finally:
        watch.stop()
        writer.stop(DRAIN_S)
        appender.close()
        stream.close()
        database.dispose()


def main() -> int:
    """Read the arguments and serve; a MillraceError becomes one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m serving.prediction_log.server", description=__doc__)
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104
    options = parser.parse_args()
    try:
        serve(settings(), options.host, options.http_port)
    except MillraceError as error:
        print(f"prediction_log: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
