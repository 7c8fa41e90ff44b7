"""The retraining trigger: `python -m serving.retraining_trigger [--http_port N]` serves, `… ask --reason TEXT` asks it.

`ask` goes to MILLRACE_RETRAINING_TRIGGER_URL. Where that is empty it does the trigger's work itself until the
retraining has ended: a laptop needs no service to retrain.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

from millrace.direct import open_directly
from millrace.errors import MillraceError, Unavailable
from millrace.events.stream import open_stream
from millrace.events.watched import show_groups
from millrace.lake.atomic import exclusive
from millrace.observe.progress import log
from millrace.observe.tracing import configure
from millrace.registry.retraining import DECLINED, PROMOTED
from millrace.settings import Settings, settings
from serving.retraining_trigger.events import ask
from serving.retraining_trigger.listener import Listener
from serving.retraining_trigger.service import Trigger, Triggers, launcher_of

STATUS = {PROMOTED: 0, DECLINED: 4}


def main() -> int:
    """Serve or ask; a MillraceError becomes one message and status 1."""
    parser = argparse.ArgumentParser(prog="python -m serving.retraining_trigger", description=__doc__)
    parser.add_argument("--http_port", type=int, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104
    parser.add_argument("--workload", default="", help="whose (default: MILLRACE_WORKLOAD)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asking = commands.add_parser("ask", help="ask for a retraining: 0 a canary begins, 4 the champion stays")
    asking.add_argument("--reason", required=True, help="why; kept in the audit log")
    asking.add_argument("--id", default="", help="the same one asks once")
    commands.add_parser("status", help="what waits, runs and was")
    options = parser.parse_args()
    here = settings(options.workload)
    try:
        if options.command == "ask":
            named = {"id": options.id} if options.id else {}
            return _ask(here, {"reason": options.reason, "workload": here.workload} | named)
        if options.command == "status":
            return _show(_get(here, f"/v1/status?workload={here.workload}"))
        serve(here, options.host, options.http_port)
    except MillraceError as error:
        print(f"retraining_trigger: {error}", file=sys.stderr)
        return 1
    return 0


def serve(here: Settings, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT. A retraining that runs goes on."""
    import uvicorn

    from serving.retraining_trigger.app import App
    from serving.wire import StrictProtocol

    with exclusive(here.home / "retraining" / "trigger.lock", f"the retraining trigger of {here.home}"):
        configure("millrace-retraining-trigger")
        triggers = Triggers(here, launcher_of)
        config = uvicorn.Config(
            App(triggers), host=host, port=port, loop="uvloop", http=StrictProtocol, ws="none",
            lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=10,
        )  # fmt: skip
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends on these, and then raises them again
            signal.signal(number, lambda *_: None)
        stream = open_stream(here)
        show_groups(stream)
        listener = Listener(stream, triggers)
        workers = triggers.run()
        listener.start()
        log("retraining_trigger_ready", port=port, launcher=here.retraining_launcher)
        try:
            uvicorn.Server(config).run()
        finally:
            listener.stop()
            stream.close()
            triggers.stop()
            for worker in workers:
                worker.join(10)


def _ask(here: Settings, document: dict[str, str]) -> int:
    body = json.dumps(document).encode()
    if here.retraining_trigger_url:
        return _show(_post(here, "/v1/retrain", body))
    with exclusive(here.home / "retraining" / "trigger.lock", f"the retraining trigger of {here.home}"):
        trigger = Trigger(here, launcher_of(here))
        _, request = ask(body, datetime.now(UTC))
        trigger.take([request])
        while trigger.state.waiting or trigger.state.running:
            trigger.tick()
            time.sleep(0.5)
    last = next((line for line in reversed(trigger.state.history) if request.id in line["asked_by"]), None)
    if last is None:
        print("seen before: this request was answered", file=sys.stderr)
        return 1
    print(f"{last['outcome']}: {last['detail']}")
    return STATUS.get(last["outcome"], 1)


def _post(here: Settings, path: str, body: bytes) -> Any:
    headers = {"content-type": "application/json"}
    return _call(urllib.request.Request(_url(here, path), data=body, headers=headers))  # noqa: S310 - from a setting


def _get(here: Settings, path: str) -> Any:
    if not here.retraining_trigger_url:
        raise Unavailable("MILLRACE_RETRAINING_TRIGGER_URL is empty: no trigger to ask")
    return _call(urllib.request.Request(_url(here, path)))  # noqa: S310 - from a setting


def _url(here: Settings, path: str) -> str:
    return here.retraining_trigger_url.rstrip("/") + path


def _call(request: urllib.request.Request) -> Any:
    try:
        with open_directly(request, 30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise Unavailable(f"{request.full_url} answered {error.code}: {error.read()[:500].decode()}") from error
    except OSError as error:
        raise Unavailable(f"{request.full_url} cannot be reached: {error}") from error


def _show(document: Any) -> int:
    print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
