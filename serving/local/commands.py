"""What `python -m serving.local` does: up, down, status, predict, logs.

The supervisor is found by its lock and its file; a signal tells it to look at the manifests again, or to stop.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from millrace import gateway
from millrace.direct import open_directly
from millrace.errors import NotFound, Unavailable
from millrace.installed import Workload
from millrace.observe.progress import log
from millrace.requests import TIME
from millrace.settings import settings
from serving.local.manifest import Service, read_service
from serving.local.records import end_all
from serving.local.state import GATEWAY, LocalState, Place, ProcessState

UP_TIMEOUT_S = 180.0
DOWN_TIMEOUT_S = 90.0
COMPANIONS_S = 10.0
"""How long `up` waits for companions once the service itself is ready; senders keep what they cannot take yet."""
LOOKED_S = 2.0
"""By then a runtime has looked at its manifests; what it says before may be about an earlier one."""
FAILED_STARTS = 3
"""A server that died so often before it was ready will not come up by itself."""


def up(place: Place, manifest: Path) -> LocalState:
    """Run what the manifest says and return when it is ready; a runtime that is up already follows it, as it is.

    Services whose manifests lie in the home run side by side: bringing one up leaves the others alone. Raises
    Unavailable when it does not become ready; what ran before goes on running then.
    """
    service = read_service(manifest, place.home)
    running = place.read() if place.alive() else None
    if running is not None and _follows(running, manifest, place):
        before = running.find(service.name)
        if before is not None and before.manifest_hash != service.hash:
            log("following", old_version=before.model_version, new_version=service.model_version)
        with suppress(ProcessLookupError):  # it is being started again, and looks then
            os.kill(running.pid, signal.SIGHUP)
        return _wait_ready(place, None, service)
    if place.alive():
        log("restarting", manifest=manifest)
        down(place)
    place.file.unlink(missing_ok=True)
    place.logs.mkdir(parents=True, exist_ok=True)
    with (place.logs / "supervisor.log").open("ab") as stream:
        watch = subprocess.Popen(
            [sys.executable, "-m", "serving.local.watch", f"--lock={place.lock}", f"--manifest={manifest.resolve()}"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=os.environ | {"MILLRACE_HOME": str(place.home)},
            start_new_session=True,
        )
    return _wait_ready(place, watch, service)


def _follows(running: LocalState, manifest: Path, place: Place) -> bool:
    """Whether a runtime looks at this manifest: it was started with it, or both lie in the home."""
    beside = {path.parent for path in (manifest.resolve(), Path(running.manifest))} == {place.folder.resolve()}
    return beside or running.manifest == str(manifest.resolve())


def down(place: Place) -> bool:
    """Drain and stop; False when nothing ran. Raises Unavailable when it does not stop."""
    pids = place.pids()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while place.alive():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"the local runtime (process {pids[0]}) did not stop in {DOWN_TIMEOUT_S:g} s; see {place.logs}"
            )
        time.sleep(0.05)
    left = end_all(place.running)
    place.forget_envoy()
    place.file.unlink(missing_ok=True)
    place.ports.unlink(missing_ok=True)
    return bool(pids or left)


def status(place: Place, console: Console) -> bool:
    """Print the table; False when nothing runs."""
    state = place.read() if place.alive() else None
    if state is None:
        console.print(f"Nothing is running for {place.home}. Start it with: make up")
        return False
    table = Table("service", "process", "model", "traffic", "state", "pid", "port", "since (UTC)", "restarts", "log")
    ports = f"{state.gateway_port}" + (f", gRPC {state.grpc_port}" if state.grpc_port else "")
    table.add_row("gateway", "supervisor", "", "", state.state, str(state.pid), ports, _since(state), "", "")
    shares = {r.name: f"{r.percent} %" for service in state.services for r in service.revisions}
    for item in state.processes:
        name = str(Path(item.log).relative_to(place.home)) if item.log else ""
        table.add_row(
            item.service,
            item.revision or item.role,
            item.model_version.replace("unset", ""),
            shares.get(item.revision, ""),
            item.state + (f" after {item.ready_after_s:.1f} s" if item.state == "ready" else ""),
            str(item.pid),
            str(item.http_port or ""),
            _since(item),
            str(item.restarts) + (f", {item.ended}" if item.ended else ""),
            name,
        )
    for service in state.services:
        if service.error:
            table.add_row(service.name, "", "", "", f"{service.state}: {service.error}", "", "", "", "", "")
    for column in table.columns:
        column.overflow = "fold"
    for service in state.models:
        console.print(f"{service.name}, model version {service.model_version}, at {state.url}")
    console.print(table)
    return True


def _since(item: LocalState | ProcessState) -> str:
    return item.started_at[5:19].replace("T", " ")


def sample(workload: Workload, overrides: dict[str, Any]) -> dict[str, Any]:
    """The workload's example as an event of now, with what was given on the command line in it."""
    now = {workload.schema.EVENT_ID: time.time_ns() // 1000, TIME: datetime.now(UTC).isoformat(timespec="seconds")}
    given = {name: value for name, value in overrides.items() if value is not None}
    return now | dict(workload.exchange.EXAMPLE) | given


def predict(place: Place, model_name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Send one V1 request through the gateway; returns the answer's document. Raises Unavailable."""
    state = require_running(place)
    url = f"{state.url}/v1/models/{model_name}:predict"
    body = json.dumps({"instances": [event]}).encode()
    headers = {"content-type": "application/json"} | settings().gateway_headers
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with open_directly(request, 30, gateway.tls()) as answer:
            document: dict[str, Any] = json.loads(answer.read())
            return document
    except urllib.error.HTTPError as error:
        raise Unavailable(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise Unavailable(f"{url} cannot be reached: {error}. See: python -m serving.local status") from error


def logs(place: Place, role: str | None, lines: int) -> str:
    """The last lines of one log, or of all."""
    paths = sorted(place.logs.glob(f"*{role or ''}*.log"))
    if not paths:
        raise NotFound(f"no log in {place.logs}" + (f" for {role!r}" if role else "") + ". Start with: make up")
    return "\n".join(f"── {path.name}\n{tail(path, lines)}" for path in paths)


def require_running(place: Place) -> LocalState:
    state = place.read() if place.alive() else None
    if state is None or not state.gateway_port:
        raise Unavailable(f"nothing is running for {place.home}. Start it with: make up")
    return state


def tail(path: Path, lines: int) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return "".join(deque(stream, maxlen=lines)).rstrip()


def _wait_ready(place: Place, watch: subprocess.Popen[bytes] | None, service: Service) -> LocalState:
    """Wait with one line per process that becomes ready; a start that failed is taken down again and shown."""
    began = time.monotonic()
    deadline = began + UP_TIMEOUT_S
    ready_since = 0.0
    seen: set[str] = set()
    while time.monotonic() < deadline:
        state = place.read()
        if state is None:
            if not place.alive() and (watch is None or watch.poll() is not None):
                raise Unavailable(f"the local runtime ended:\n{tail(place.logs / 'supervisor.log', 15)}")
        elif state.state == "failed":
            raise Unavailable(f"the local runtime could not start: {state.error}")
        else:
            _show_progress(state, seen)
            if time.monotonic() > began + LOOKED_S:
                _require_startable(state, service.name, place, fresh=watch is not None)
            found = state.find(service.name)
            reachable = all(item.state == "ready" for item in state.processes if item.service == GATEWAY)
            if reachable and found and found.state == "ready" and found.manifest_hash == service.hash:
                ready_since = ready_since or time.monotonic()
                if _companions_settled(state) or time.monotonic() > ready_since + COMPANIONS_S:
                    return state
        time.sleep(0.05)
    if watch is not None:
        down(place)
    raise Unavailable(f"not ready after {UP_TIMEOUT_S:g} s; the logs are in {place.logs}")


def _show_progress(state: LocalState, seen: set[str]) -> None:
    for item in state.processes:
        if item.state == "ready" and item.log not in seen:
            seen.add(item.log)
            log("ready", process=Path(item.log).stem, port=item.http_port, seconds=item.ready_after_s)
    for service in state.services:
        if service.state == "skipped" and service.name not in seen:
            seen.add(service.name)
            log("skipped", service=service.name, reason=service.error)


def _require_startable(state: LocalState, service: str, place: Place, *, fresh: bool) -> None:
    """Raise Unavailable when a server of the service keeps dying, or its manifest cannot be followed."""
    found = state.find(service)
    if found is not None and found.error:
        raise Unavailable(f"{found.name} cannot follow its manifest: {found.error}")
    for item in state.processes:
        if item.service == service and item.restarts >= FAILED_STARTS and item.state != "ready":
            last = tail(Path(item.log), 15)
            if fresh:
                down(place)
            raise Unavailable(f"{Path(item.log).stem} ended {item.restarts} times before it was ready:\n{last}")


def _companions_settled(state: LocalState) -> bool:
    """Companions are ready, skipped, or have failed so often that nobody waits for them."""
    failed = {item.service for item in state.processes if item.restarts >= FAILED_STARTS}
    return all(service.state != "starting" or service.name in failed for service in state.services)
