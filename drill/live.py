"""The servers of the drill: started as programs, spoken to over HTTP, killed on request. Serving is never imported."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from millrace import gateway
from millrace.direct import open_directly
from millrace.errors import NotFound, Unavailable
from millrace.events.log import LABELS, PREDICTIONS, engine, reading
from millrace.installed import load
from millrace.observe.progress import log
from millrace.settings import Settings

LOG, TRIGGER = "prediction-log", "retraining-trigger"
COMPANIONS: Final = f"{LOG},drift-detector,../pipelines/{TRIGGER}"
"""Folders below manifests/base/serving: what the local runtime starts beside the model."""
ROWS_A_REQUEST: Final = 16
"""Few enough that a tenth of a day's requests is a sample for a canary."""
PATIENCE_S: Final = 300.0


@dataclass(slots=True)
class Live:
    """The local runtime of a home, its companions, and the canary controller."""

    home: Path
    env: dict[str, str]
    settings: Settings
    rollout: subprocess.Popen[bytes] | None = None
    _connection: http.client.HTTPConnection | None = None
    sent: int = 0
    told: int = 0
    """Labels that the log was told, each of another event."""
    versions: dict[str, int] = field(default_factory=dict)
    """Answers by model version."""

    @property
    def detector(self) -> str:
        """The service that watches the model for drift."""
        return f"{self.settings.model_name}-drift"

    def up(self) -> None:
        """Start everything; raises Unavailable naming what is missing."""
        program("serving.local", "up", env=self.env)
        missing = [name for name in (LOG, self.detector, TRIGGER) if not self.port(name)]
        if missing:
            raise Unavailable(
                f"the local runtime does not run {', '.join(missing)}: {self._why(missing)}. "
                "The drill needs the real ones (make drift-env makes the detector's environment)."
            )
        command = [sys.executable, "-m", "serving.rollout", "--adopt", "--every=1", "--target=local"]
        with (self.home / "serving" / "logs" / "rollout.log").open("ab") as stream:
            self.rollout = subprocess.Popen(command, env=self.env, stdout=stream, stderr=stream)

    def down(self) -> None:
        if self.rollout is not None:
            self.rollout.terminate()
            self.rollout.wait(30)
        subprocess.run([sys.executable, "-m", "serving.local", "down"], env=self.env, check=False)

    def state(self) -> dict[str, Any]:
        """What the runtime says of itself."""
        try:
            document: dict[str, Any] = json.loads((self.home / "serving" / "local.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return document

    def service(self, name: str) -> dict[str, Any]:
        return next((item for item in self.state().get("services", []) if item.get("name") == name), {})

    def port(self, name: str) -> int:
        return int(self.service(name).get("port") or 0)

    def get(self, name: str, path: str) -> Any:
        """A companion's answer; waits while it is being restarted."""
        return self._patiently(lambda: _call(f"http://127.0.0.1:{self.port(name)}{path}"), name)

    def post(self, name: str, path: str, document: Any) -> Any:
        body = json.dumps(document).encode()
        return self._patiently(lambda: _call(f"http://127.0.0.1:{self.port(name)}{path}", body), name)

    def post_events(self, name: str, body: bytes) -> Any:
        """A batch of CloudEvents."""
        kind = "application/cloudevents-batch+json"
        return self._patiently(lambda: _call(f"http://127.0.0.1:{self.port(name)}/", body, kind), name)

    def send(self, rows: pa.Table) -> None:
        """Score the rows in order, several a request; raises Unavailable unless every one is answered."""
        instances = self._instances(rows)
        for start in range(0, len(instances), ROWS_A_REQUEST):
            part = instances[start : start + ROWS_A_REQUEST]
            answer = self._predict(json.dumps({"instances": part}).encode())
            for prediction in answer["predictions"]:
                version = str(prediction["model_version"])
                self.versions[version] = self.versions.get(version, 0) + 1
            self.sent += len(part)

    def _predict(self, body: bytes) -> dict[str, Any]:
        path = f"/v1/models/{self.settings.model_name}:predict"
        headers = {"content-type": "application/json"} | self.settings.gateway_headers
        for attempt in range(3):
            try:
                if self._connection is None:
                    self._connection = gateway.connection(self.state()["gateway_port"], timeout_s=60)
                self._connection.request("POST", path, body, headers)
                answer = self._connection.getresponse()
                data = answer.read()
                if answer.status == 200:
                    document: dict[str, Any] = json.loads(data)
                    return document
                reason = f"{answer.status} {data[:300]!r}"
            except OSError as error:
                self._connection, reason = None, repr(error)
            time.sleep(0.5 * 2**attempt)
        raise Unavailable(f"the model did not answer: {reason}")

    def label(self, rows: pa.Table) -> None:
        """Tell the log what has become known."""
        times = np.datetime_as_string(rows["label_timestamp"].cast(pa.int64()).to_numpy().astype("datetime64[us]"))
        schema = load(self.settings.workload).schema
        names = (schema.EVENT_ID, schema.LABEL.column)
        told = zip(*(rows[name].to_pylist() for name in names), [f"{at}Z" for at in times.tolist()], strict=True)
        labels = [dict(zip((*names, "label_timestamp"), row, strict=True)) for row in told]
        for start in range(0, len(labels), 5_000):
            self.post(LOG, "/v1/labels", {"labels": labels[start : start + 5_000]})
        self.told += len(labels)

    def _instances(self, rows: pa.Table) -> list[dict[str, Any]]:
        """As a client asks: event id, keys of the entities, the other fields, and the time."""
        workload = load(self.settings.workload)
        schema, asked = workload.schema, workload.exchange.ASKED
        keys = [entity.key for entity in schema.ENTITIES if entity.key in rows.column_names]
        columns = {name: rows[name].to_pylist() for name in (schema.EVENT_ID, *keys)}
        for name in asked:
            decimal = pa.types.is_decimal(rows[name].type)
            columns[name] = (rows[name].cast(pa.float64()) if decimal else rows[name]).to_pylist()
        times = np.datetime_as_string(rows["event_timestamp"].cast(pa.int64()).to_numpy().astype("datetime64[us]"))
        columns["event_timestamp"] = [f"{at}Z" for at in times.tolist()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def logged(self) -> tuple[int, int]:
        """(rows, distinct events) that the log holds."""
        count = sa.select(sa.func.count(), sa.func.count(PREDICTIONS.c.event_id.distinct()))
        rows, distinct = self._counted(count.select_from(PREDICTIONS))
        return rows, distinct

    def labelled(self) -> int:
        """Events whose label the log holds."""
        return self._counted(sa.select(sa.func.count(LABELS.c.event_id.distinct())))[0]

    def _counted(self, query: sa.Select[Any]) -> tuple[int, ...]:
        database = engine(self.settings)
        try:
            with reading(database) as connection:
                return tuple(int(count) for count in connection.execute(query).one())
        finally:
            database.dispose()

    def watched(self) -> int:
        """Rows that the stopped detector has judged, of all versions, from the state it saved."""
        path = self.home / "drift" / self.settings.model_name / "state.npz"
        if not path.is_file():
            return 0
        with np.load(path, allow_pickle=False) as found:
            document = json.loads(found["document"].tobytes())
        return sum(int(watch["seen"]) for watch in document["watches"].values())

    def wait_logged(self) -> None:
        """Until the log has its tables and every answer; raises Unavailable with what is missing."""
        self._wait(lambda: self.logged()[0], self.sent, "answers")

    def wait_labelled(self) -> None:
        """Until it has every label that it was told: it takes them before it writes them."""
        self._wait(self.labelled, self.told, "labels")

    def _wait(self, count: Callable[[], int], wanted: int, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                rows = count()
                if rows >= wanted:
                    return
                found = f"holds {rows} of {wanted} {what}"
            except Unavailable as error:  # it takes events before its tables are made
                found = f"cannot be read: {error}"
            if time.monotonic() > deadline:
                raise Unavailable(f"the prediction log {found} after {PATIENCE_S:g} s")
            time.sleep(0.05)

    def kill(self, names: Sequence[str]) -> dict[str, int]:
        """kill -9 the processes of these services; the runtime starts them again."""
        killed = {}
        for name in names:
            for process in self._processes(name):
                os.kill(process, signal.SIGKILL)
                killed[name] = process
        log("killed", **killed)
        return killed

    def _processes(self, name: str) -> list[int]:
        return [
            int(item["pid"]) for item in self.state().get("processes", []) if item["service"] == name and item["pid"]
        ]

    def _why(self, names: Sequence[str]) -> str:
        return "; ".join(f"{name}: {self.service(name).get('error') or 'not started'}" for name in names)

    def _patiently(self, call: Callable[[], Any], name: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code not in (429, 503):
                    raise Unavailable(f"{name} answered {error.code}: {error.read()[:300]!r}") from error
                if time.monotonic() > deadline:
                    raise Unavailable(f"{name} did not answer in {PATIENCE_S:g} s: {error}") from error
                time.sleep(0.2)


def program(module: str, *arguments: str, env: dict[str, str]) -> None:
    """Run one of our programs to its end; raises Unavailable when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    if subprocess.run(command, env=env, check=False).returncode:
        raise Unavailable(f"`python -m {module} {' '.join(arguments)}` failed, see above")


def require(root: Path) -> None:
    """Raise NotFound naming the first part that the drill needs and this checkout lacks."""
    wanted = {
        "serving/prediction_log/server.py": "the prediction log",
        "serving/drift_detector/server.py": "the drift detector",
        "serving/rollout/__main__.py": "the canary controller",
        "serving/retraining_trigger/__main__.py": "the retraining trigger",
        ".venv-drift/bin/python": "the drift detector's environment (make drift-env)",
    }
    for path, name in wanted.items():
        if not (root / path).exists():
            raise NotFound(f"the drill needs {name}: {path} is not there")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _call(url: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    if urlsplit(url).port in (None, 0):
        raise ConnectionRefusedError(f"{url}: not running")
    request = urllib.request.Request(url, data=body, headers={"content-type": kind})  # noqa: S310
    with open_directly(request, 30) as answer:
        return json.loads(answer.read())
