"""Reference windows of model versions: the folder of a promoted version in, a `Reference` out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.workload import Task
from serving.drift_detector.judgement import Reference

FILE: Final = "reference_window.parquet"


class ModelStore:
    """One folder per version of the watched model; a version is never written again."""

    def __init__(self, folder: Path, model_name: str, workload: str) -> None:
        self.folder, self.model_name, self.workload = folder, model_name, workload

    def versions(self) -> list[str]:
        """Versions that can be judged, oldest first."""
        found = [path.parent.name for path in self.folder.glob(f"*/{FILE}")]
        return sorted(found, key=lambda version: (len(version), version))

    def require(self, version: str) -> None:
        """Raise InvalidInput for a version that is not there; cheap."""
        if not version or "/" in version or version.startswith(".") or not (self.folder / version / FILE).is_file():
            known = ", ".join(self.versions()) or "none"
            raise InvalidInput(f"model version {version!r} has no {FILE} in {self.folder}; there: {known}")

    def reference(self, version: str) -> Reference:
        """Read and verify; raises InvalidInput or ArtifactCorrupt."""
        self.require(version)
        return read_reference(self.folder / version, version, self.workload)


def read_reference(folder: Path, version: str, workload: str) -> Reference:
    """The reference window in the folder of a workload's model, its hash checked against the manifest."""
    import json

    import duckdb

    try:
        manifest = Manifest.lying_in(folder, "model")
        manifest.verify()
        spec = json.loads(manifest.path("model.json").read_text(encoding="utf-8"))
        columns = duckdb.execute("select * from read_parquet(?)", [str(manifest.path(FILE))]).fetchnumpy()
    except NotFound as error:
        raise InvalidInput(f"model version {version!r} is not whole: {error}") from error
    except duckdb.Error as error:
        raise ArtifactCorrupt(f"{folder / FILE} cannot be read: {error}") from error
    names = tuple(spec["feature_names"])
    decides = load(workload).task is Task.RANKING
    missing = sorted({*names, "score"} - columns.keys())
    if decides and spec.get("decision_threshold") is None:
        missing.append("decision_threshold")
    if missing:
        raise ArtifactCorrupt(f"{folder} lacks {', '.join(missing)}. Run optimise again.")
    features = np.column_stack([np.asarray(columns[name], np.float32) for name in names])
    threshold = float(spec["decision_threshold"]) if decides else None
    scores = np.asarray(columns["score"], np.float32)
    return Reference(version, names, features, scores, threshold, load(workload).watch)
