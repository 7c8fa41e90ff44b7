"""The servers on this machine. `python -m serving.local up|down|status|predict|logs|replay`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from millrace.errors import InvalidInput, MillraceError
from millrace.fields import Kind
from millrace.installed import Workload, load
from millrace.lake.disk import writing_to
from millrace.lake.moved import settle
from millrace.printing import accept_any_text
from millrace.requests import RequestFormat
from millrace.settings import settings
from serving.local import commands
from serving.local.manifest import read_service
from serving.local.state import Place

TEXTS: Final = (Kind.TEXT, Kind.KEY, Kind.INSTANT)
"""Kinds of fields whose values are text in a request."""


def main() -> int:
    accept_any_text()
    options = _arguments().parse_args()
    place = Place(settings().home.resolve())
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        with writing_to(place.home):
            return int(options.run(options, place, console) or 0)
    except MillraceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _up(options: argparse.Namespace, place: Place, console: Console) -> None:
    settle(place.home)
    manifest = options.manifest or place.manifest(settings(options.workload).model_name)
    state = commands.up(place, manifest)
    service = state.find(read_service(manifest, place.home).name)
    assert service is not None
    console.print(f"{service.name} version {service.model_version} answers at {state.url}")
    console.print(f"  V1    POST {state.url}/v1/models/{service.name}:predict")
    console.print(f"  V2    POST {state.url}/v2/models/{service.name}/infer")
    console.print(f"  ready GET  {state.url}/v2/models/{service.name}/ready")
    if state.grpc_port:
        console.print(f"  gRPC  127.0.0.1:{state.grpc_port}, model {service.name}")


def _down(_: argparse.Namespace, place: Place, console: Console) -> None:
    console.print("stopped" if commands.down(place) else f"nothing was running for {place.home}")


def _status(_: argparse.Namespace, place: Place, console: Console) -> int:
    return 0 if commands.status(place, console) else 3


def _predict(options: argparse.Namespace, place: Place, console: Console) -> None:
    configured = settings(options.workload)
    workload = load(configured.workload)
    event = commands.sample(workload, fields_of(options.fields, workload))
    console.print_json(json.dumps({"instances": [event]}))
    console.print_json(json.dumps(commands.predict(place, configured.model_name, event)))


def fields_of(pairs: Sequence[str], workload: Workload) -> dict[str, Any]:
    """`name=value` of a command line as a request says it; raises InvalidInput for a field that no request has."""
    wanted = RequestFormat.of(workload)
    numbers = {workload.schema.EVENT_ID, *(field.name for field in wanted.fields if field.kind not in TEXTS)}
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in wanted.names:
            raise InvalidInput(f"{pair!r} is no FIELD=VALUE; the fields are {', '.join(wanted.names)}")
        given[name] = _number(name, text) if name in numbers else text
    return given


def _number(name: str, text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError as error:
        raise InvalidInput(f"{name} is {text!r}; wanted a number") from error


def _logs(options: argparse.Namespace, place: Place, _: Console) -> None:
    print(commands.logs(place, options.role, options.lines))


def _replay(options: argparse.Namespace, place: Place, console: Console) -> int:
    from serving.local import replay

    how = (options.limit, options.concurrency, shlex.split(options.refresh))
    report = replay.replay(place, options.feature_set, options.model, options.day, *how)
    console.print(report.summary())
    return 0 if report.equal else 1


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.local", description=__doc__)
    parser.add_argument("--workload", default="", help="which one is meant (default: MILLRACE_WORKLOAD)")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("up", help="start the servers; those that run already follow the manifest without a restart")
    add.add_argument("--manifest", type=Path, help="an InferenceService; default: the one that was promoted last")
    add.set_defaults(run=_up)
    verbs.add_parser("down", help="drain and stop them").set_defaults(run=_down)
    verbs.add_parser("status", help="what runs, where, since when").set_defaults(run=_status)
    add = verbs.add_parser("predict", help="send one request and show the answer")
    add.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="of the request; default: the workload's example")
    add.set_defaults(run=_predict)
    add = verbs.add_parser("logs", help="the end of the log files")
    add.add_argument("role", nargs="?", help="part of a log's name: predictor, transformer, supervisor; default: all")
    add.add_argument("--lines", type=int, default=20)
    add.set_defaults(run=_logs)
    add = verbs.add_parser("replay", help="send a day's events and compare the scores with the offline ones")
    add.add_argument("--feature-set", type=Path, required=True, help="manifest of the feature set that has the day")
    add.add_argument("--model", type=Path, required=True, help="folder of the model that is served")
    add.add_argument("--day", type=date.fromisoformat, required=True)
    add.add_argument("--limit", type=int, help="only the first so many events of the day")
    add.add_argument("--concurrency", type=int, default=8)
    add.add_argument(
        "--refresh", default="", help="command that brings the online store to each instant it reads, one a line"
    )
    add.set_defaults(run=_replay)
    return parser


if __name__ == "__main__":
    sys.exit(main())
