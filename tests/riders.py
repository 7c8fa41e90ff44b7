"""Passengers of a simulated city: what they ask of a running model, and what is known once they have arrived."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from trips.world import City, WorldConfig

ROWS = 8
"""Trips in a request: few enough that a tenth of the requests is a sample for a canary."""


def trips_of(config: WorldConfig, day: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The plausible trips of a day as requests, and their labels."""
    made = City(config).day(day)
    begin_us, end_us = made["lpep_pickup_datetime"], made["lpep_dropoff_datetime"]
    minutes = (end_us - begin_us) / 60e6
    whole = (minutes >= 1) & (minutes <= 60) & (made["trip_distance"] <= 100)
    asked, known = [], []
    for row in np.flatnonzero(whole & (begin_us > np.median(begin_us) - 86_400_000_000)).tolist():
        identity = day * 100_000 + row
        asked.append(
            {
                "trip_id": identity,
                "event_timestamp": _instant(begin_us[row]),
                "pickup_zone": str(made["PULocationID"][row]),
                "dropoff_zone": str(made["DOLocationID"][row]),
                "trip_distance": float(made["trip_distance"][row]),
            }
        )
        known.append(
            {"trip_id": identity, "duration_min": float(minutes[row]), "label_timestamp": _instant(end_us[row])}
        )
    return asked, known


def answers(url: str, trips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to one request."""
    answer = httpx.post(f"{url}/v1/models/trip-duration:predict", json={"instances": trips}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


def arrive(home: Path, labels: list[dict[str, Any]]) -> None:
    """Tell the prediction log how long trips took."""
    services = json.loads((home / "serving" / "local.json").read_text())["services"]
    port = next(service["port"] for service in services if service["name"] == "prediction-log")
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/labels?workload=trips", json={"labels": labels}, timeout=60)
    assert answer.status_code == 202, answer.text


@dataclass
class Riders:
    """They get in without pause, and arrive at once; each trip is a new one, like one of the given day."""

    url: str
    home: Path
    like: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    first_id: int
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Riders:
        self._thread = threading.Thread(target=self._ride)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _ride(self) -> None:
        asked, known = self.like
        turn = 0
        while not self._stop.is_set():
            rows = [(turn * ROWS + place) % len(asked) for place in range(ROWS)]
            ids = [self.first_id + turn * ROWS + place for place in range(ROWS)]
            turn += 1
            try:
                told = answers(self.url, [asked[row] | {"trip_id": i} for row, i in zip(rows, ids, strict=True)])
                arrive(self.home, [known[row] | {"trip_id": i} for row, i in zip(rows, ids, strict=True)])
            except (AssertionError, httpx.HTTPError) as error:
                self.failures.append(repr(error))
                continue
            self.versions.update(answer["model_version"] for answer in told)


def _instant(us: Any) -> str:
    return f"{np.datetime64(int(us), 'us')}Z"
