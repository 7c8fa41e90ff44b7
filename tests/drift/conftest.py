"""Run in the detector's environment; tests/unit/serving/test_drift_detector.py starts it from the main one."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("alibi_detect") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from benchmarks.drift import Stream, detector_of, simulated_stream


@pytest.fixture(scope="session")
def stream() -> Stream:
    """65 days of 1,000 customers after a month of history: 120,000 requests with real features."""
    return simulated_stream(customers=1_000, days=65, seed=1)


@pytest.fixture(scope="session")
def detector(stream: Stream) -> Any:
    return detector_of(stream, "streaming")


@pytest.fixture
def model_store(tmp_path: Path, stream: Stream) -> Callable[..., Path]:
    """`model_store("1", "2")` → a folder with a promoted version each; reference windows are real."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fraud.features import FEATURE_NAMES
    from millrace.lake.manifest import Manifest, content_id, hash_files

    def build(*versions: str) -> Path:
        for version in versions:
            folder = tmp_path / "models" / version
            folder.mkdir(parents=True)
            rows = stream.reference_rows
            columns = {name: stream.features[rows, i] for i, name in enumerate(FEATURE_NAMES)}
            pq.write_table(pa.table(columns | {"score": stream.scores[rows]}), folder / "reference_window.parquet")
            spec = {"feature_names": FEATURE_NAMES, "decision_threshold": stream.threshold, "name": version}
            (folder / "model.json").write_text(json.dumps(spec))
            files = hash_files(folder)
            Manifest(kind="model", id=content_id(files), workload="fraud", uri=str(folder), files=files).write()
        return tmp_path / "models"

    return build


@pytest.fixture
def prediction(stream: Stream) -> Callable[..., dict[str, Any]]:
    """`prediction(row, vector=…, **data)` → one prediction event as the transformer sends it."""
    from datetime import UTC, datetime

    from logged import prediction_event

    def event(row: int, *, vector: np.ndarray | None = None, **data: Any) -> dict[str, Any]:
        values = stream.features[row] if vector is None else vector
        score = float(stream.scores[row])
        said = {
            "event_timestamp": datetime.fromtimestamp(stream.event_us[row] / 1e6, UTC).isoformat(),
            "model_version": "1",
            "score": score,
            "decision": "review" if score >= stream.threshold else "approve",
            "features": [None if np.isnan(value) else float(value) for value in values],
        }
        return prediction_event(row, **said | data) | {"id": f"r{row}:0"}

    return event
